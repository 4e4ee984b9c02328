"""The workloads: their requests, contenders, settings and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from benchmarks.throughput import inputs
from benchmarks.throughput.workload import LIMIT, Config, Contender, Target, Workload

__all__ = ["WORKLOADS"]

OURS = Contender("ours", "MicroBatchHandler", decode=False)
BASE = Contender("base", "TorchServe's BaseHandler")


def _workers(count: int) -> dict[str, int]:
    return {"minWorkers": count, "maxWorkers": count}


DEFAULTS = replace(OURS, key="defaults", title="MicroBatchHandler, nothing set", handler="ours")

SHARED = replace(
    OURS,
    key="shared",
    title="MicroBatchHandler, share_model",
    candidates=[
        {**_workers(count), "micro_batching": {"share_model": True}} for count in (2, 3, 4, 6)
    ],
    handler="ours",
)
"""Workers that prepare and finish requests, around one process that has the model."""

WORKERS = replace(
    BASE,
    key="workers",
    title="TorchServe's BaseHandler, more workers",
    candidates=[_workers(count) for count in (2, 3, 4)],
    handler="base",
)
"""Each with a model of its own: what people do today."""


def _threads(*parallelism: int) -> dict[str, int]:
    return dict(zip(("preprocess", "inference", "postprocess"), parallelism, strict=True))


def _stock(sizes: Sequence[int], parallelisms: Sequence[dict[str, int]]) -> Contender:
    candidates: list[Config] = [
        {"micro_batching": {"micro_batch_size": size, "parallelism": parallelism}}
        for parallelism, size in product(parallelisms, sizes)
    ]
    return Contender("stock", "TorchServe's MicroBatching", candidates)


VECTOR = Workload(
    name="vector",
    title="JSON list of 384 floats, one linear layer, JSON list of 384 floats; CPU",
    stages="vector",
    clients=64,
    bodies=inputs.vectors,
    content_type="application/json",
    config={"batchSize": 32, "maxBatchDelay": 2},
    contenders=[
        OURS,
        BASE,
        _stock([1, 2, 4, 8, 16, 32], [_threads(1, 1, 1), _threads(2, 1, 1), _threads(2, 1, 2)]),
        Contender("constant", "constant bytes (upper bound)", decode=False),
    ],
    targets=[Target("base", 3.0), Target("stock", 4.0), Target("constant", 0.5)],
)

LAUNCH_BOUND = Workload(
    name="image-launch",
    title="JPEG of 68 kB, decoded small and resized, EMULATED accelerator of 5 ms + 0.4 ms per "
    "image, top five",
    stages="image",
    clients=128,
    bodies=inputs.photos,
    content_type="image/jpeg",
    config={"batchSize": 64, "maxBatchDelay": 5},
    contenders=[
        # Two lanes to decode on two cores, and two to keep the device's queue filled.
        replace(
            OURS,
            candidates=[{"micro_batching": {"parallelism": {"preprocess": 2, "inference": 2}}}],
        ),
        DEFAULTS,
        BASE,
        _stock([1, 2, 4, 8, 16, 32, 64], [_threads(1, 1, 1), _threads(2, 1, 1), _threads(2, 2, 1)]),
        WORKERS,
        SHARED,
    ],
    targets=[
        Target("base", 1.7),
        Target("stock", 1.1),
        Target("base", 1.6, of="defaults"),
        Target("stock", 1.0, of="defaults"),
        Target("stock", 1.6, of="shared"),
        Target("ours", 1.4, of="shared"),
        Target(LIMIT, 0.7, of="shared"),
    ],
    accelerator={"launch_ms": 5.0, "row_ms": 0.4},
    # The decoder scales while it decodes, in half the time, so that the device matters.
    handler={"draft": True},
)

SLOW_LAUNCH_BOUND = replace(
    LAUNCH_BOUND,
    name="image-launch-slow",
    title="JPEG of 68 kB, decoded small and resized, EMULATED accelerator of 10 ms + 0.8 ms per "
    "image, top five",
    # On two cores decoding alone takes longer than the other accelerator does. To half of it two
    # cores are what four are to the other.
    accelerator={"launch_ms": 10.0, "row_ms": 0.8},
)

PREPROCESS_BOUND = replace(
    LAUNCH_BOUND,
    name="image-preprocess",
    title="JPEG of 68 kB, decoded in full and resized, EMULATED accelerator of 1 ms + 0.1 ms per "
    "image, top five",
    targets=[Target("base", 1.9)],
    accelerator={"launch_ms": 1.0, "row_ms": 0.1},
    handler={"draft": False},
)

TEXT = Workload(
    name="text",
    title="sentence of 5 to 20 words, all-MiniLM-L6-v2, JSON list of 384 floats; CPU",
    stages="text",
    clients=32,
    bodies=inputs.sentences,
    content_type="application/json",
    config={"batchSize": 16, "maxBatchDelay": 5},
    contenders=[
        *(
            replace(each, candidates=[{"handler": {"threads": 1}}, {"handler": {"threads": 2}}])
            for each in (OURS, BASE)
        ),
        replace(
            _stock([], []),
            candidates=[
                {**candidate, "handler": {"threads": threads}}
                for threads in (1, 2)
                for candidate in _stock([4, 8, 16], [_threads(1, 1, 1)]).candidates
            ],
        ),
    ],
    targets=[Target("base", 1.0)],
)


def _one_client(workload: Workload) -> Workload:
    """One client, so that every batch is one request: what the machinery itself costs."""
    return replace(
        workload,
        name=f"{workload.name}-one-client",
        title=f"one client; {workload.title}",
        clients=1,
        # With room for more, TorchServe would wait for them, which hides what is compared; and
        # it takes a maxBatchDelay of 0 for its default of 100 ms.
        config={**workload.config, "batchSize": 1},
        contenders=[each for each in workload.contenders if each.key in {"ours", "base"}],
        targets=[Target("base", 1.03)],
        measure="p50_ms",
    )


WORKLOADS = {
    each.name: each
    for each in (
        VECTOR,
        _one_client(VECTOR),
        LAUNCH_BOUND,
        SLOW_LAUNCH_BOUND,
        _one_client(LAUNCH_BOUND),
        PREPROCESS_BOUND,
        TEXT,
    )
}
"""By name, in the order of a run."""
