"""The network alone, in this process, beside which handlers are measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from tests.gpu.contestants import Contestant

__all__ = ["Network"]


class Network:
    """Its right answers, and the rows that it can compute when they are on the device already.

    Args:
        bodies: of requests, each of which it answers once.
        rows: of a call that is timed.
        gpu: its number; None for the CPU.
        tiny: whether it is one that a CPU can compute.
        seconds: how long to measure.
        settings: of the handler.
        alone: the handler that computes it, as TorchServe serves it by itself.
    """

    def __init__(
        self,
        bodies: list[bytes],
        rows: int,
        *,
        gpu: int | None,
        tiny: bool,
        seconds: float,
        settings: Mapping[str, Any] | None = None,
        alone: Contestant | None = None,
    ) -> None:
        alone = alone or Contestant("the network alone", "photo_base")
        alone.load(rows, gpu, tiny=tiny, settings=settings)
        self.answers = alone.answers(bodies)
        batch = [{"body": bodies[place % len(bodies)]} for place in range(rows)]
        on_device = alone.handler.preprocess(batch)
        self.dtype = str(alone.handler.dtype).removeprefix("torch.")
        self.per_second = rows * _calls_per_second(alone.handler, on_device, seconds)
        alone.close()
        del on_device
        if gpu is not None:
            torch.cuda.empty_cache()  # for the workers


def _calls_per_second(handler: Any, on_device: torch.Tensor, seconds: float) -> float:
    handler.inference(on_device).cpu()  # not timed: it loads kernels
    calls, started_s = 0, time.perf_counter()
    while not calls or time.perf_counter() < started_s + seconds:
        results = [handler.inference(on_device) for _ in range(4)]
        results[-1][:1].cpu()  # waits; otherwise calls would be counted that were only asked for
        calls += len(results)
    return calls / (time.perf_counter() - started_s)
