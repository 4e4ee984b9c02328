"""When a batch would be finished: the schedule of its calls, computed from their costs.

It follows the pipeline: each stage takes micro-batches in the order in which they became ready, in
as many lanes as it has. A micro-batch is ready when its last row has left the stage before.

    preprocess in 2s   [0 1][2 3][4 5][6 7]
    inference in 4s              [0 1 2 3][4 5 6 7]
    postprocess in 8s                              [0 .. 7]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from operator import le
from typing import TypeAlias

__all__ = ["Cost", "Forecast"]

Cost: TypeAlias = Callable[[int], float]
"""Seconds of a call on so many rows."""


class Forecast:
    """When a batch of so many rows would be finished, for any plan.

    Stages that several plans share from the first on are computed once.

    Args:
        rows: of the batch.
        costs: of a call, for each stage.
        lanes: of each stage.
        hand_over_s: what a micro-batch costs in each stage beside the call.
    """

    def __init__(
        self, rows: int, costs: Sequence[Cost], lanes: Sequence[int], hand_over_s: float
    ) -> None:
        self.rows = rows
        self.lanes = lanes
        self.hand_over_s = hand_over_s
        self._costs = costs
        self._calls_s: dict[tuple[int, int], tuple[int, float, float]] = {}
        self._done_s: dict[tuple[int, ...], list[float]] = {}

    def finish_s(self, sizes: tuple[int, ...]) -> float:
        """Seconds until the last micro-batch has left the last stage."""
        return max(self._done(sizes))

    def work_s(self, stage: int, size: int) -> float:
        """Seconds that all calls of one stage take together."""
        count, full_s, last_s = self.calls(stage, size)
        return (count - 1) * full_s + last_s

    def at_least_s(self, stage: int, size: int) -> float:
        """No plan with this size in this stage is finished earlier."""
        return self.work_s(stage, size) / self.lanes[stage]

    def calls(self, stage: int, size: int) -> tuple[int, float, float]:
        """The number of calls, and seconds of each but the last and of the last, handed over."""
        known = self._calls_s.get((stage, size))
        if known is None:
            count = -(-self.rows // size)
            cost, more_s = self._costs[stage], self.hand_over_s
            full_s = cost(min(size, self.rows)) + more_s
            last = self.rows - (count - 1) * size
            last_s = full_s if last == size else cost(last) + more_s
            known = self._calls_s[stage, size] = (count, full_s, last_s)
        return known

    def _done(self, sizes: tuple[int, ...]) -> list[float]:
        """When each micro-batch of the last of these stages has left it."""
        done = self._done_s.get(sizes)
        if done is None:
            stage = len(sizes) - 1
            count, full_s, last_s = self.calls(stage, sizes[-1])
            ready = self._ready(sizes, count)
            done = _in_lanes(ready, full_s, last_s, self.lanes[stage])
            self._done_s[sizes] = done
        return done

    def _ready(self, sizes: tuple[int, ...], count: int) -> list[float]:
        """When the last row of each micro-batch has come."""
        if len(sizes) == 1:
            return [0.0] * count
        before, size = sizes[-2:]
        came = self._done(sizes[:-1])
        if before == size:
            return came
        ends = [min(stop, self.rows) for stop in range(size, count * size + 1, size)]
        if _ascending(came):
            return [came[(end - 1) // before] for end in ends]
        return [
            max(came[group * size // before : (end - 1) // before + 1])
            for group, end in enumerate(ends)
        ]


def _in_lanes(ready: list[float], full_s: float, last_s: float, lanes: int) -> list[float]:
    """When each micro-batch is done by a stage with so many lanes."""
    last = len(ready) - 1
    if lanes == 1 and _ascending(ready):
        done = []
        now = 0.0
        for at in ready:
            now = (at if at > now else now) + full_s  # noqa: FURB136  (twice as fast)
            done.append(now)
        done[last] += last_s - full_s
        return done
    free = [0.0] * min(lanes, len(ready))
    heapify(free)
    done = [0.0] * len(ready)
    for group in sorted(range(len(ready)), key=ready.__getitem__):
        at = ready[group]
        begins = at if at > free[0] else free[0]  # noqa: FURB136
        done[group] = begins + (last_s if group == last else full_s)
        heapreplace(free, done[group])
    return done


def _ascending(moments_s: list[float]) -> bool:
    return all(map(le, moments_s, moments_s[1:]))
