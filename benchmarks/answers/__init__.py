"""Right answers: handlers as users write them, plain and wrapped, on a real TorchServe.

    python -m benchmarks.answers --requests 20000 --json answers.json

Each kind of harness/kinds.py is packed as torch-model-archiver packs it, and the same archive
wrapped. What the plain one answers to each request alone is what the wrapped one must answer to
it in batches, with good and bad requests of many clients beside it.
"""
