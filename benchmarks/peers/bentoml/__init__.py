"""BentoML."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.peer import Peer
from benchmarks.throughput.workload import Workload

__all__ = ["PEER"]


def _wrap(workload: Workload, body: bytes) -> bytes:
    """A batchable API takes a batch, here one of one row; a JPEG as it is."""
    return body if workload.stages == "image" else b'{"rows": [' + body + b"]}"


def _unwrap(answer: Any) -> Any:
    """A batch of one."""
    return answer[0]


PEER = Peer(
    key="bentoml",
    title="BentoML",
    path="/predict",
    # A request that BentoML expects to last longer than latency_ms is answered 503: hence so long.
    settings={
        "vector": [
            {"task": "vector", "batch": 32, "latency_ms": 10000, "workers": 1},
            {"task": "vector", "batch": 64, "latency_ms": 10000, "workers": 2},
        ],
        "image": [
            {"task": "image", "batch": 64, "latency_ms": 10000, "workers": 1},
            {"task": "image", "batch": 64, "latency_ms": 10000, "workers": 2},
        ],
        "text": [
            {"task": "text", "batch": 16, "latency_ms": 10000, "workers": 1},
            {"task": "text", "batch": 16, "latency_ms": 10000, "workers": 2},
        ],
    },
    follows="https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html",
    wrap=_wrap,
    unwrap=_unwrap,
)
