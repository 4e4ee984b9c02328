"""Ray Serve."""

from __future__ import annotations

from benchmarks.peers.peer import Peer

__all__ = ["PEER"]

PEER = Peer(
    key="ray",
    title="Ray Serve",
    path="/",
    settings={
        "vector": [
            {"task": "vector", "batch": 32, "wait_ms": 2, "batches": 1},
            {"task": "vector", "batch": 64, "wait_ms": 1, "batches": 1},
        ],
        # Two batches at a time: the device works on one while the next is gathered.
        "image": [
            {"task": "image", "batch": 64, "wait_ms": 5, "batches": 2},
            {"task": "image", "batch": 32, "wait_ms": 5, "batches": 2},
        ],
        "text": [
            {"task": "text", "batch": 16, "wait_ms": 2, "batches": 1},
            {"task": "text", "batch": 16, "wait_ms": 2, "batches": 1, "threads": 2},
            {"task": "text", "batch": 16, "wait_ms": 2, "batches": 2},
        ],
    },
    follows="https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
)
