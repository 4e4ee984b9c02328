"""Batches in simulated time: stages with known costs, run event by event.

Written apart from the package's own forecast, and closer to the pipeline: the inboxes between the
stages are bounded, and what stands in them is taken in the order it came.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.regroup import bounds
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.planning.plans import Plan

HAND_OVER_S = 70e-6

Cost = Callable[[int], float]


@dataclass
class Machine:
    """Three stages; `costs` give the seconds of a call on k rows."""

    costs: Sequence[Cost]
    lanes: PerStage[int] = field(default_factory=lambda: PerStage.of(1))
    cores: float | None = None
    """Calls that can run at once; None for any number. With 1, as if all held Python's lock."""
    noise: float = 0.0
    """Relative deviation of each call."""
    pauses: float = 0.0
    """The share of calls that take five times as long."""
    seed: int = 1
    calls: list[tuple[int, int, float]] = field(default_factory=list)
    """Stage, rows and seconds of each call of the last batch."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def call_s(self, stage: int, rows: int) -> float:
        """What this call would take alone."""
        seconds = self.costs[stage](rows) * max(0.1, self.chance.gauss(1, self.noise))
        return seconds * 5 if self.chance.random() < self.pauses else seconds

    def run_s(self, rows: int, plan: Plan) -> float:
        """How long a batch takes, inline if it is not cut."""
        self.calls = []
        if plan.fits(rows):
            for stage in range(len(STAGES)):
                self.calls.append((stage, rows, self.call_s(stage, rows)))
            return sum(seconds for _, _, seconds in self.calls)
        return _InLanes(self, rows, plan).run_s()

    def batch_s(self, planner: Planner, rows: int) -> float:
        """Run a batch as planned and tell the planner, as the engine does."""
        plan = planner.plan(rows)
        seconds = self.run_s(rows, plan)
        for stage, size, call_s in self.calls:
            planner.observe(STAGES[stage], size, call_s)
        planner.finished(rows, plan, seconds)
        return seconds


class _InLanes:
    """One batch in lanes: calls share the cores in equal parts."""

    def __init__(self, machine: Machine, rows: int, plan: Plan) -> None:
        self._machine = machine
        sizes = [plan.sizes[stage] for stage in STAGES]
        self._groups = [bounds(rows, size) for size in sizes]
        self._sizes = sizes
        self._left = [[stop - start for start, stop in groups] for groups in self._groups]
        self._inboxes: list[deque[int]] = [deque() for _ in STAGES]
        self._room = [2 * machine.lanes[stage] for stage in STAGES]
        self._idle = [machine.lanes[stage] for stage in STAGES]
        self._blocked: list[deque[list[int]]] = [deque() for _ in STAGES]
        self._running: list[tuple[float, int, int, int, float]] = []
        self._number = count()
        self._now_s = 0.0
        self._work_s = 0.0
        """The progress of a call that has run from the beginning."""

    def run_s(self) -> float:
        self._inboxes[0].extend(range(len(self._groups[0])))
        self._start(0)
        while self._running:
            self._end_next()
        return self._now_s

    def _slowdown(self) -> float:
        cores = self._machine.cores
        return max(1.0, len(self._running) / cores) if cores else 1.0

    def _end_next(self) -> None:
        slowdown = self._slowdown()
        due_s, _, stage, group, began_s = heapq.heappop(self._running)
        self._now_s += (due_s - self._work_s) * slowdown
        self._work_s = due_s
        start, stop = self._groups[stage][group]
        self._machine.calls.append((stage, stop - start, self._now_s - began_s - HAND_OVER_S))
        if stage + 1 == len(STAGES):
            self._free(stage)
            return
        ready = []
        size = self._sizes[stage + 1]
        for after in range(start // size, (stop - 1) // size + 1):
            first, last = self._groups[stage + 1][after]
            self._left[stage + 1][after] -= min(stop, last) - max(start, first)
            if not self._left[stage + 1][after]:
                ready.append(after)
        self._put(stage + 1, ready)

    def _start(self, stage: int) -> None:
        while self._idle[stage] and self._inboxes[stage]:
            group = self._inboxes[stage].popleft()
            self._idle[stage] -= 1
            start, stop = self._groups[stage][group]
            due_s = self._work_s + HAND_OVER_S + self._machine.call_s(stage, stop - start)
            entry = (due_s, next(self._number), stage, group, self._now_s)
            heapq.heappush(self._running, entry)
            if self._blocked[stage]:
                self._put(stage, self._blocked[stage].popleft())

    def _put(self, stage: int, groups: list[int]) -> None:
        """A lane of the stage before hands on what is ready; it waits while the inbox is full."""
        while groups:
            if len(self._inboxes[stage]) >= self._room[stage] and not self._idle[stage]:
                self._blocked[stage].append(groups)
                return
            self._inboxes[stage].append(groups.pop(0))
            self._start(stage)
        self._free(stage - 1)

    def _free(self, stage: int) -> None:
        self._idle[stage] += 1
        self._start(stage)


def linear(fixed_s: float, row_s: float) -> Cost:
    """A call on k rows takes `fixed_s + row_s * k`."""
    return lambda rows: fixed_s + row_s * rows
