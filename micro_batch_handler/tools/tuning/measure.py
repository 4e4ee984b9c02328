"""Each stage alone: what its calls take for many sizes, and when several of its lanes call at once.

No stage is called by itself: batches run through the real pipeline, in plans that keep the stages
apart. Where a stage wants the whole batch, it waits until the stage before has done all of it.

    unsplit           n / n / n   one call of each stage, in the caller's thread
    in a lane         k / n / k   calls on k rows: of preprocess, and later of postprocess
                      n / k / n   of inference
    with neighbours   the same in several lanes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.choices import INFERENCE
from micro_batch_handler.planning.costs import CallCosts
from micro_batch_handler.planning.curves import Curve, Point, curve
from micro_batch_handler.tools.tuning.batch import Bench, SettingFails, Visit, spread
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting

__all__ = ["Measured", "measure"]

CALLS_A_LANE = 2
"""Calls that each lane makes in a measured batch, so that most have neighbours all along."""

LONGEST = 1 / 60
"""Of all time, what one batch may take; larger ones are not looked at."""

MOST_ROUNDS = 15

OTHERS = [stage for stage in STAGES if stage != STAGES[INFERENCE]]


@dataclass(frozen=True)
class Measured:
    """What was measured of the stages."""

    inline: Sequence[Sequence[Point]]
    """For each stage, calls in the caller's thread, where PyTorch has all cores."""

    lanes: Sequence[Sequence[Point]]
    """For each stage, calls in its only lane; none where payloads cannot be regrouped."""

    contention: Mapping[tuple[int, int], float]
    """By what factor calls of a stage take longer in so many lanes than in one."""

    cpu: float
    """Cores that are busy while a stage is, alone in a lane."""

    memory: Sequence[Point]
    """Bytes that the process held at most, in batches of so many rows."""

    largest: int
    """Of the batches that were measured."""

    most_lanes: PerStage[int]
    """That were tried without requests failing."""

    regroups: bool
    """Whether stages can have different sizes."""

    spread: float
    """How far batches that were the same lie apart, relatively."""

    rounds: int

    def curves(self) -> tuple[list[Curve], list[Curve]]:
        """What a call costs unsplit and in a lane, for each stage."""
        pairs = list(zip(self.inline, self.lanes, strict=True))
        inline = [known for own, other in pairs if (known := curve(own, other)) is not None]
        lanes = [known for other, own in pairs if (known := curve(own, other)) is not None]
        return inline, lanes


class _Notes:
    """What the batches of all rounds have told."""

    def __init__(self, most_lanes: PerStage[int]) -> None:
        self.inline = [CallCosts() for _ in STAGES]
        self.lanes = [CallCosts() for _ in STAGES]
        self.crowded: dict[tuple[int, int], CallCosts] = {}
        self.seconds: dict[Setting, list[float]] = {}
        self.cpu: list[float] = []
        self.memory = CallCosts()
        self.most_lanes = most_lanes
        self.regroups = True

    def failed(self, setting: Setting, failure: SettingFails) -> None:
        """Learn from it what not to choose; raise it if it would be the same everywhere."""
        if not failure.regroups:
            self.regroups = False
            return
        if setting.lanes == ONE_LANE:
            raise failure
        fewer = {
            stage: min(self.most_lanes[stage], setting.lanes[stage] - 1)
            for stage in STAGES
            if setting.lanes[stage] > 1
        }
        self.most_lanes = replace(self.most_lanes, **fewer)

    def add(self, setting: Setting, visit: Visit) -> None:
        self.seconds.setdefault(setting, []).append(visit.seconds)
        for at, stage in enumerate(STAGES):
            costs = self._costs(setting, at)
            taken_s: dict[int, list[float]] = {}
            for batch in visit.batches:
                for call in batch.calls:
                    if call.stage == stage:
                        taken_s.setdefault(call.rows, []).append(call.seconds)
            # Means, since requests differ; of several visits the median counts.
            costs.extend((rows, fmean(seconds)) for rows, seconds in taken_s.items())
        for batch in visit.batches:
            if setting.splits and batch.work_s and setting.lanes == ONE_LANE:
                self.cpu.append(batch.cpu_s / batch.work_s)
            if not setting.splits and batch.peak_bytes:
                self.memory.observe(setting.batch_size, batch.peak_bytes)

    def _costs(self, setting: Setting, at: int) -> CallCosts:
        if not setting.splits:
            return self.inline[at]
        lanes = setting.lanes[STAGES[at]]
        if lanes > 1:
            return self.crowded.setdefault((at, lanes), CallCosts())
        # Beside several lanes of other stages, PyTorch has fewer cores inside a call.
        return self.lanes[at] if setting.lanes == ONE_LANE else CallCosts()

    def measured(self, largest: int, rounds: int) -> Measured:
        measured = Measured(
            [costs.points() for costs in self.inline],
            [costs.points() for costs in self.lanes],
            {},
            median(self.cpu) if self.cpu else 1.0,
            self.memory.points(),
            largest,
            self.most_lanes,
            self.regroups,
            median(map(spread, self.seconds.values())),
            rounds,
        )
        return replace(measured, contention=self._contention(measured.curves()[1]))

    def _contention(self, alone: Sequence[Curve]) -> dict[tuple[int, int], float]:
        """Never below 1: neighbours do not make a call cheaper, and what says so is noise."""
        return {
            (at, lanes): max(1.0, median(p.seconds / alone[at](p.rows) for p in costs.points()))
            for (at, lanes), costs in self.crowded.items()
        }


def measure(
    bench: Bench,
    batch_sizes: Sequence[int],
    most_lanes: PerStage[int],
    budget: Budget,
    share: float,
) -> Measured:
    """Measure in rounds until the share of the budget is used; at least one round.

    Args:
        bench: runs the batches.
        batch_sizes: to try, ascending; those that take too long for the budget are left out.
        most_lanes: to try, for each stage.
        budget: of time.
        share: of it, at which to stop.

    Raises:
        SettingFails: not even one request can be answered.
    """
    notes = _Notes(most_lanes)
    sizes = _unsplit(bench, notes, batch_sizes, budget)
    probes = [*_probes(sizes), *_probes_with_neighbours(sizes[-1], most_lanes)]
    rounds = 0
    while rounds == 0 or (budget.lasts(share) and rounds < MOST_ROUNDS):
        if rounds:
            _unsplit(bench, notes, sizes, budget)
        for setting in probes:
            if not notes.regroups or (rounds and not budget.lasts(share)):
                break
            if any(setting.lanes[stage] > notes.most_lanes[stage] for stage in STAGES):
                continue
            budget.doing(f"measuring {setting}")
            try:
                notes.add(setting, bench.visit(setting))
            except SettingFails as failure:
                notes.failed(setting, failure)
        rounds += 1
    return notes.measured(sizes[-1], rounds)


def _unsplit(
    bench: Bench, notes: _Notes, batch_sizes: Sequence[int], budget: Budget
) -> Sequence[int]:
    """Measure unsplit batches; the sizes that do not take too long, and the first."""
    for at, size in enumerate(batch_sizes):
        setting = Setting.whole(size)
        budget.doing(f"measuring {setting}")
        visit = bench.visit(setting)
        if at and visit.seconds > LONGEST * budget.seconds and setting not in notes.seconds:
            return batch_sizes[:at]
        notes.add(setting, visit)
    return batch_sizes


def _probes(sizes: Sequence[int]) -> Iterable[Setting]:
    """Calls of each size below the largest, two or more in a batch."""
    for size in sizes[:-1]:
        rows = min(sizes[-1], CALLS_A_LANE * size)
        yield Setting(rows, (size, rows, size))
        yield Setting(rows, (rows, size, rows))


def _probes_with_neighbours(rows: int, most_lanes: PerStage[int]) -> Iterable[Setting]:
    """Several lanes, in calls of a size that keeps all of them busy; as far as the rows do."""
    most = max(most_lanes[stage] for stage in OTHERS)
    for lanes in range(2, min(most, rows) + 1):
        size = max(1, rows // (CALLS_A_LANE * lanes))
        counts = {stage: min(lanes, most_lanes[stage]) for stage in OTHERS}
        yield Setting(rows, (size, rows, size), replace(ONE_LANE, **counts))
    for lanes in range(2, min(most_lanes.inference, rows) + 1):
        size = max(1, rows // (CALLS_A_LANE * lanes))
        yield Setting(rows, (rows, size, rows), replace(ONE_LANE, inference=lanes))
