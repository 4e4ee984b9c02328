"""Who is compared."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from benchmarks.peers.servers import PeerServer, RayServer, Server, TorchServeServer
from benchmarks.throughput.workload import Config
from benchmarks.throughput.workloads import WORKLOADS as THROUGHPUT

__all__ = ["NAMES", "PEERS", "WORKLOADS", "server_of"]

WORKLOADS = {
    "vector": THROUGHPUT["vector"],
    "image": THROUGHPUT["image-launch"],
    "text": THROUGHPUT["text"],
}
"""By name; each workload's own number of clients is not used here."""

PEERS = ("mosec", "triton", "litserve", "bentoml", "ray")
"""Folders beside this file."""


def _candidates(key: str) -> dict[str, Sequence[Config]]:
    """By workload, the settings that a contender of throughput/ has there, with two batch sizes.

    Half the workload's own: what is not in a batch waits in the queue, so that the frontend or
    another worker has something to do meanwhile.
    """
    return {
        each.name: [
            {**candidate, "batchSize": size}
            for candidate in one.candidates
            for size in (each.config["batchSize"] // 2, each.config["batchSize"])
        ]
        for each in WORKLOADS.values()
        for one in each.contenders
        if one.key == key
    }


BY_HAND: list[Config] = [
    {
        "micro_batching": {
            "micro_batch_size": {"preprocess": 4, "inference": size // 2, "postprocess": size},
            "parallelism": {"preprocess": 2, "inference": 2},
        },
        "batchSize": size,
    }
    for size in (24, 32, 64)
]
"""For images and this package: `auto` takes longer than a probe. 24, so that two workers leave some
of 64 clients' requests in the queue, which the frontend collects meanwhile."""

BY_LENGTH: list[Config] = [
    {
        "micro_batching": {"sort_by_length": True, "micro_batch_size": 8},
        "handler": {"threads": threads},
        "batchSize": size,
    }
    for threads, size in ((1, 16), (1, 32), (2, 32))
]
"""For text and this package: sentences of like length share calls, since the model pads."""

TWO_LANES: list[Config] = [
    {
        "micro_batching": {**by_length, "parallelism": {"inference": 2}},
        "handler": {"threads": 1},
        "batchSize": size,
    }
    for size, by_length in ((16, {}), (32, {"sort_by_length": True, "micro_batch_size": 8}))
]
"""For text and this package: two calls of one thread each do more than one call of two."""

_OURS, _BASE, _STOCK = map(_candidates, ("ours", "base", "stock"))
_OURS["image-launch"] = [*_OURS["image-launch"], *BY_HAND]
_OURS["text"] = [*_OURS["text"], *BY_LENGTH, *TWO_LANES]

TORCHSERVE = (
    TorchServeServer("ours", "MicroBatchHandler", "ours", decode=False, candidates=_OURS),
    TorchServeServer(
        "ours-2", "MicroBatchHandler, 2 workers", "ours", 2, decode=False, candidates=_OURS
    ),
    TorchServeServer("base", "TorchServe's BaseHandler", "base", candidates=_BASE),
    TorchServeServer("base-2", "TorchServe's BaseHandler, 2 workers", "base", 2, candidates=_BASE),
    TorchServeServer("stock", "TorchServe's MicroBatching", "stock", candidates=_STOCK),
)

ON_RAY = RayServer("ours-ray", "MicroBatchHandler on Ray Serve", "ours", _OURS)

ARCHIVES = (*TORCHSERVE, ON_RAY)

NAMES = (*(each.key for each in ARCHIVES), *PEERS)


def server_of(name: str) -> Server:
    """The server with this name."""
    if name in PEERS:
        return PeerServer(import_module(f"benchmarks.peers.{name}").PEER)
    return next(each for each in ARCHIVES if each.key == name)
