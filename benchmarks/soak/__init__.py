"""A soak: thousands of batches with random faults in one process, every answer checked.

    python -m benchmarks.soak --batches 20000 --seed 1 --json soak.json

Five handlers with payloads of different kinds take batches in turn. Each batch passes through
TorchServe's own code (`retrieve_msg`, `Service.predict`, `create_predict_response`), and what comes
back is compared with what each request must get. Exits with 1 on the first wrong answer, and if
memory grows or a thread or file is left.
"""
