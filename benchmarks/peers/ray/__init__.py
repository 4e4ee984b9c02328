"""Ray Serve."""

from __future__ import annotations

from benchmarks.peers.peer import Peer

__all__ = ["PEER"]

PEER = Peer(
    key="ray",
    title="Ray Serve",
    path="/",
    settings={
        "vector": [{"task": "vector", "batch": 32, "wait_ms": 2, "replicas": 1, "batches": 1}],
        "image-launch": [{"task": "image", "batch": 64, "wait_ms": 5, "replicas": 1, "batches": 2}],
        "text": [{"task": "text", "batch": 16, "wait_ms": 2, "replicas": 1, "batches": 1}],
    },
    follows="https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html",
)
