"""Batches in simulated time: stages with known costs, run event by event.

How long a call holds a lock up is reckoned as if all of it were shared out evenly.

Written apart from the package's own forecast, and closer to the pipeline: the inboxes between the
stages are bounded, and what stands in them is taken in the order it came.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.regroup import bounds
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner

HAND_OVER_S = 70e-6

Cost = Callable[[int], float]


@dataclass
class Machine:
    """Three stages; `costs` give the seconds of a call on k rows."""

    costs: Sequence[Cost]
    lanes: PerStage[int] = field(default_factory=lambda: PerStage.of(1))
    cores: float | None = None
    """Calls that can run at once; None for any number. With 1, as if all held Python's lock."""
    waiting: Sequence[int] = ()
    """Stages whose calls need no core: they wait for a device."""
    noise: float = 0.0
    """Relative deviation of each call."""
    unrest: float = 0.0
    """Relative deviation of all calls of a batch that need a core, as beside other programs."""
    pauses: float = 0.0
    """The share of calls that take five times as long."""
    seed: int = 1
    locked: Sequence[float] = (0.0, 0.0, 0.0)
    """The share of each stage's calls in which they hold a lock, as Python's, that one at a time
    can hold."""
    calls: list[tuple[int, int, float]] = field(default_factory=list)
    """Stage, rows and seconds of each call of the last batch."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._slow = 1.0

    def call_s(self, stage: int, rows: int) -> float:
        """What this call would take alone."""
        seconds = self.costs[stage](rows) * max(0.1, self.chance.gauss(1, self.noise))
        seconds *= 1.0 if stage in self.waiting else self._slow
        return seconds * 5 if self.chance.random() < self.pauses else seconds

    def run_s(self, rows: int, plan: Plan) -> float:
        """How long a batch takes, inline if it is not cut."""
        self.calls = []
        self._slow = max(0.1, self.chance.gauss(1, self.unrest))
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


class _Call:
    """A call that runs, and what is left of it."""

    __slots__ = ("began_s", "group", "left_s", "stage")

    def __init__(self, stage: int, group: int, left_s: float, began_s: float) -> None:
        self.stage = stage
        self.group = group
        self.left_s = left_s
        self.began_s = began_s


class _InLanes:
    """One batch in lanes: calls share the cores in equal parts, if they need any."""

    def __init__(self, machine: Machine, rows: int, plan: Plan) -> None:
        self._machine = machine
        sizes = [plan.size(stage) for stage in STAGES]
        self._groups = [bounds(rows, size) for size in sizes]
        self._sizes = sizes
        self._left = [[stop - start for start, stop in groups] for groups in self._groups]
        self._inboxes: list[deque[int]] = [deque() for _ in STAGES]
        self._room = [2 * machine.lanes[stage] for stage in STAGES]
        self._idle = list(plan.lanes or [machine.lanes[stage] for stage in STAGES])
        self._blocked: list[deque[list[int]]] = [deque() for _ in STAGES]
        self._running: list[_Call] = []
        self._now_s = 0.0

    def run_s(self) -> float:
        self._inboxes[0].extend(range(len(self._groups[0])))
        self._start(0)
        while self._running:
            self._end_next()
        return self._now_s

    def _slowdown(self, call: _Call) -> float:
        machine = self._machine
        wanted = sum(machine.locked[each.stage] for each in self._running)
        held_up = machine.locked[call.stage] * max(0.0, wanted - 1)
        if machine.cores is None or call.stage in machine.waiting:
            return 1 + held_up
        working = sum(each.stage not in machine.waiting for each in self._running)
        return max(1.0, working / machine.cores) + held_up

    def _end_next(self) -> None:
        slowdowns = [self._slowdown(call) for call in self._running]
        lefts_s = [call.left_s * slow for call, slow in zip(self._running, slowdowns, strict=True)]
        next_s = min(lefts_s)
        for call, slow in zip(self._running, slowdowns, strict=True):
            call.left_s -= next_s / slow
        self._now_s += next_s
        call = self._running.pop(lefts_s.index(next_s))
        stage = call.stage
        start, stop = self._groups[stage][call.group]
        self._machine.calls.append((stage, stop - start, self._now_s - call.began_s - HAND_OVER_S))
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
            call_s = HAND_OVER_S + self._machine.call_s(stage, stop - start)
            self._running.append(_Call(stage, group, call_s, self._now_s))
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
