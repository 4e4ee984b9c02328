"""What was measured of the stages, and how batches tell it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.cost_curve import Curve, Point, curve
from micro_batch_handler.planning.sizes import INFERENCE
from micro_batch_handler.tools.tuning.batch import SettingFails, Visit, spread
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, ONE_LANE, Setting

__all__ = ["AS_AUTO", "Measured", "Notes", "Threaded"]


@dataclass(frozen=True)
class Threaded:
    """What it changes when calls have so many threads, and nothing runs beside them."""

    slower: Sequence[float]
    """By what factor calls of each stage take longer than with as many as `auto` has unsplit."""

    cpu: float
    """Cores that are busy meanwhile."""


AS_AUTO = Threaded((1.0,) * len(STAGES), 1.0)


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
    threads: Mapping[int, Threaded] = field(default_factory=dict)
    """By the number of threads."""

    def curves(self) -> tuple[list[Curve], list[Curve]]:
        """What a call costs unsplit and in a lane, for each stage."""
        pairs = list(zip(self.inline, self.lanes, strict=True))
        inline = [known for own, other in pairs if (known := curve(own, other)) is not None]
        lanes = [known for other, own in pairs if (known := curve(own, other)) is not None]
        return inline, lanes


class Notes:
    """What batches have told so far.

    Args:
        padded: the rows that a call of inference really has.
        most_lanes: to try, for each stage.
        cores: that the process may use.
    """

    def __init__(self, padded: Callable[[int], int], most_lanes: PerStage[int], cores: int) -> None:
        self._padded = padded
        self._cores = cores
        self._threaded: dict[int, list[CallCosts]] = {}
        self._busy: dict[int, list[float]] = {}
        self._inline = [CallCosts() for _ in STAGES]
        self._lanes = [CallCosts() for _ in STAGES]
        self._crowded: dict[tuple[int, int], CallCosts] = {}
        self._seconds: dict[Setting, list[float]] = {}
        self._cpu: list[float] = []
        self._memory = CallCosts()
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
        """Learn what the calls of these batches took."""
        self._seconds.setdefault(setting, []).append(visit.seconds)
        for at, stage in enumerate(STAGES):
            costs = self._costs(setting, at)
            taken_s: dict[int, list[float]] = {}
            for batch in visit.batches:
                for call in batch.calls:
                    if call.stage == stage:
                        rows = self._padded(call.rows) if at == INFERENCE else call.rows
                        taken_s.setdefault(rows, []).append(call.seconds)
            # Means, since requests differ; of several visits the median counts.
            costs.extend((rows, fmean(seconds)) for rows, seconds in taken_s.items())
        for batch in visit.batches:
            if setting.splits and batch.work_s and setting.lanes == ONE_LANE:
                self._cpu.append(batch.cpu_s / batch.work_s)
            if not setting.splits and batch.work_s:
                threads, *_ = setting.in_calls(self._cores)
                self._busy.setdefault(threads, []).append(batch.cpu_s / batch.work_s)
            if not setting.splits and batch.peak_bytes:
                self._memory.observe(setting.batch_size, batch.peak_bytes)

    def _costs(self, setting: Setting, at: int) -> CallCosts:
        if not setting.splits:
            if setting.threads == AUTO_THREADS:
                return self._inline[at]
            threads, *_ = setting.in_calls(self._cores)
            return self._threaded.setdefault(threads, [CallCosts() for _ in STAGES])[at]
        lanes = setting.lanes[STAGES[at]]
        if lanes > 1:
            return self._crowded.setdefault((at, lanes), CallCosts())
        # Beside several lanes of other stages, PyTorch has fewer cores inside a call.
        return self._lanes[at] if setting.lanes == ONE_LANE else CallCosts()

    def measured(self, largest: int, rounds: int) -> Measured:
        """All of it, after so many rounds with batches of up to so many rows."""
        measured = Measured(
            [costs.points() for costs in self._inline],
            [costs.points() for costs in self._lanes],
            {},
            median(self._cpu) if self._cpu else 1.0,
            self._memory.points(),
            largest,
            self.most_lanes,
            self.regroups,
            median(map(spread, self._seconds.values())),
            rounds,
        )
        inline, lanes = measured.curves()
        return replace(
            measured, contention=self._contention(lanes), threads=dict(self._threads(inline))
        )

    def _threads(self, usual: Sequence[Curve]) -> Iterator[tuple[int, Threaded]]:
        for threads, busy in self._busy.items():
            slower = [1.0] * len(STAGES)
            for at, costs in enumerate(self._threaded.get(threads, ())):
                slower[at] = median(p.seconds / usual[at](p.rows) for p in costs.points())
            yield threads, Threaded(slower, median(busy))

    def _contention(self, alone: Sequence[Curve]) -> dict[tuple[int, int], float]:
        """Never below 1: neighbours do not make a call cheaper, and what says so is noise."""
        return {
            (at, lanes): max(1.0, median(p.seconds / alone[at](p.rows) for p in costs.points()))
            for (at, lanes), costs in self._crowded.items()
        }

    def knows(self, setting: Setting) -> bool:
        """Whether batches of this setting were among them."""
        return setting in self._seconds
