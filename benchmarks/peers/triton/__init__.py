"""Triton Inference Server, with the stages in its Python backend."""

from __future__ import annotations

from benchmarks.peers.peer import Peer
from benchmarks.peers.triton import v2

__all__ = ["PEER"]

PEER = Peer(
    key="triton",
    title="Triton (Python backend)",
    path=v2.PATH,
    # Searched by hand. The batcher gathers what waits while an instance is busy; a queue delay
    # on top costs more than fuller batches give. Instances are processes, HTTP threads Triton's.
    settings={
        "vector": [
            {"task": "vector", "batch": 64, "wait_us": 0, "instances": 1, "http_threads": 2},
            {"task": "vector", "batch": 64, "wait_us": 0, "instances": 1, "http_threads": 8},
        ],
        "image-launch": [
            {"task": "image", "batch": 64, "wait_us": 0, "instances": 3, "http_threads": 2},
            {"task": "image", "batch": 64, "wait_us": 5000, "instances": 2, "http_threads": 2},
        ],
        "text": [
            {"task": "text", "batch": 16, "wait_us": 0, "instances": 1, "http_threads": 2},
            {"task": "text", "batch": 16, "wait_us": 0, "instances": 2, "http_threads": 2},
        ],
    },
    follows="https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/python_backend/README.html",
    wrap=v2.wrap,
    content_type=v2.content_type,
    unwrap=v2.unwrap,
    # The backend's program for Python 3.11 fails on 3.11.7; Debian's is 3.11.2.
    python="/usr/bin/python3",
)
