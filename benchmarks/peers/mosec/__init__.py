"""mosec: stages in processes of their own, batched by a server in Rust."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.peer import Peer

__all__ = ["PEER"]


def _settings(*, json: bool, preprocess: int, inference: int, size: int) -> dict[str, Any]:
    return {
        "json": json,
        "preprocess": preprocess,
        "inference": inference,
        "max_batch_size": size,
        "max_wait_time": 1,
    }


# Found by hand with 64 clients on two cores that were not quiet; the search decides.
PEER = Peer(
    key="mosec",
    title="mosec",
    path="/inference",
    settings={
        # One stage: with preprocess in a process of its own it was a fourth as fast, or less, since
        # each request then goes through a pickle. Batches of 16 beat 32 and 64.
        "vector": [
            _settings(json=True, preprocess=0, inference=2, size=16),
            _settings(json=True, preprocess=0, inference=1, size=16),
        ],
        # The last is the pipeline of its documentation, where a corrupt image fails alone; in one
        # stage it fails its batch. Three, since a worker waits for the device.
        "image": [
            _settings(json=False, preprocess=0, inference=3, size=16),
            _settings(json=False, preprocess=0, inference=3, size=24),
            _settings(json=False, preprocess=0, inference=3, size=32),
            _settings(json=False, preprocess=2, inference=1, size=64),
        ],
        # A worker has one thread for torch, so one worker uses one core.
        "text": [
            _settings(json=True, preprocess=0, inference=2, size=16),
            _settings(json=True, preprocess=1, inference=2, size=16),
        ],
    },
    follows="https://mosecorg.github.io/mosec/examples/pytorch.html",
)
