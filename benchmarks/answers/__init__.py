"""Right answers: handlers as users write them, plain and wrapped, on a real TorchServe.

    python -m benchmarks.answers --requests 20000 --json answers.json

Each kind of harness/kinds.py is packed as torch-model-archiver packs it, and the same archive
wrapped. In batches with good and bad requests of many clients, the wrapped one must give each
request the answer that the plain one gives to it alone.
"""
