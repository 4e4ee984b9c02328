"""Triton Inference Server, with the stages in a Python process that PyTriton binds to it."""

from __future__ import annotations

from benchmarks.peers.peer import Peer
from benchmarks.peers.triton import v2

__all__ = ["PEER"]

PEER = Peer(
    key="pytriton",
    title="Triton (PyTriton)",
    path=v2.PATH,
    # Searched by hand; instances are threads of one process.
    settings={
        "vector": [
            {"task": "vector", "batch": 64, "wait_us": 0, "instances": 1, "http_threads": 8}
        ],
        "image-launch": [
            {"task": "image", "batch": 64, "wait_us": 0, "instances": 3, "http_threads": 8},
            {"task": "image", "batch": 64, "wait_us": 5000, "instances": 2, "http_threads": 8},
        ],
        "text": [{"task": "text", "batch": 16, "wait_us": 0, "instances": 1, "http_threads": 8}],
    },
    follows="https://triton-inference-server.github.io/pytriton/latest/binding_models/",
    wrap=v2.wrap,
    content_type=v2.content_type,
    unwrap=v2.unwrap,
    # Triton's Python backend for 3.11 fails on 3.11.7; Debian's is 3.11.2.
    python="/usr/bin/python3",
)
