"""Triton Inference Server, with the stages in its Python backend."""

from __future__ import annotations

from benchmarks.peers.peer import Peer
from benchmarks.peers.triton import v2

__all__ = ["PEER"]

PEER = Peer(
    key="triton",
    title="Triton (Python backend)",
    path=v2.PATH,
    # Searched by hand: batches of 16 to 64, queue delays of 0 to 5 ms, 1 to 4 instances
    # (processes), 1 to 8 HTTP threads. What comes while an instance is busy is a batch as it is;
    # a delay on top of that gained nothing. Two threads in an instance lost to two instances.
    settings={
        "vector": [
            {"task": "vector", "batch": 64, "wait_us": 0, "instances": 1, "http_threads": 2},
            {"task": "vector", "batch": 64, "wait_us": 0, "instances": 1, "http_threads": 8},
        ],
        "image": [
            {"task": "image", "batch": 64, "wait_us": 0, "instances": 3, "http_threads": 2},
            {"task": "image", "batch": 64, "wait_us": 0, "instances": 2, "http_threads": 2},
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
