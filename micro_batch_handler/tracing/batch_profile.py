"""Where the time of batches went, which stage held them up, and what a change would save.

The costs are those that the calls of these batches show; the forecast is the planner's own, with no
cost for handing over. Which stage holds batches up is asked of the forecast, because busy shares
alone do not tell a slow stage from a batch with too little to overlap:

    what would be saved if the busiest stage cost nothing?     more: that stage is the bottleneck
    what, for each request, if batches never ended?            more: the batch is too small
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from statistics import fmean

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.call import INLINE, CallRecord
from micro_batch_handler.planning.cost_curve import Point, curve
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tracing.recording import TracedBatch, call_s

__all__ = ["BatchProfile"]

ENOUGH = 1.05
"""Of the time with as many lanes as there are cores, what fewer may take."""

SHORT = 0.5
"""If less than this share of a batch passes in its calls, they are too short for lanes."""


@dataclass(frozen=True)
class BatchProfile:
    """Batches of one kind: equal rows and plan.

    Stages are given by their place in a row. What would be saved is a share of the time.
    """

    rows: int
    plan: Plan
    whole: bool
    """Whether they ran whole, in the caller's thread."""
    lanes: Sequence[int]
    """That were used of each stage: one of a whole batch."""
    batch_s: float
    """Seconds of a batch, on average."""
    work_s: Sequence[float]
    """Seconds of all calls of each stage in a batch, on average."""
    costs: Sequence[Cost]
    """Of a call of each stage."""

    @classmethod
    def of(cls, batches: Sequence[TracedBatch], lanes: PerStage[int]) -> BatchProfile:
        """The profile of at least one batch; all have calls, equal rows and equal plans.

        Args:
            batches: as they were traced.
            lanes: that there are of each stage.
        """
        calls = [[c for b in batches for c in b.calls if c.stage == stage] for stage in STAGES]
        whole = all(call.thread == INLINE for made in calls for call in made)
        return cls(
            batches[0].rows,
            batches[0].plan,
            whole,
            [1, 1, 1] if whole else list(batches[0].plan.lanes or lanes),
            fmean(batch.wall_s for batch in batches),
            [sum(map(call_s, made)) / len(batches) for made in calls],
            [_cost(made) for made in calls],
        )

    @property
    def busy(self) -> list[float]:
        """The share of the batch that the lanes of each stage worked, 0 to 1, on average."""
        return [least_s / self.batch_s if self.batch_s else 0.0 for least_s in self._least_s]

    @property
    def busiest(self) -> int:
        """The stage whose lanes worked longest."""
        return max(range(len(STAGES)), key=self._least_s.__getitem__)

    @property
    def bottleneck(self) -> int | None:
        """The stage that holds the batches up; None if none does."""
        if self.rows == 1 or self.calls_are_short:
            return None
        at_most = self.saved_by_endless_batches()
        # What would be saved if the busiest stage cost nothing.
        by_ease = self._saved(self.faster(self.busiest, inf).forecast_s)
        return self.busiest if at_most < by_ease else None

    @property
    def calls_are_short(self) -> bool:
        """Whether handing micro-batches over takes longer than the calls on them."""
        return not self.whole and self.forecast_s < SHORT * self.batch_s

    @cached_property
    def forecast_s(self) -> float:
        """What the batch takes by forecast, which is what the changes are compared with."""
        return self._finish_s(self.lanes)

    def count(self, stage: int) -> int:
        """Micro-batches of a stage."""
        return -(-self.rows // self.plan[stage])

    def faster(self, stage: int, factor: float) -> BatchProfile:
        """The same batches with one stage so many times as fast."""

        def cost(rows: int) -> float:
            return self.costs[stage](rows) / factor

        costs, work_s = list(self.costs), list(self.work_s)
        costs[stage], work_s[stage] = cost, work_s[stage] / factor
        changed = replace(self, costs=costs, work_s=work_s)
        return replace(changed, batch_s=self.batch_s * (1 - self._saved(changed.forecast_s)))

    def saved_by_endless_batches(self) -> float:
        """If batches never ended: for each request, the busiest stage would be all that counts."""
        return self._saved(self._least_s[self.busiest])

    def saved_by_lanes(self, stage: int, cores: int) -> tuple[float, int]:
        """If the stage had as many lanes as it has use for, up to the cores; and how many."""
        finish_s = {}
        for count in range(self.lanes[stage], max(self.lanes[stage], cores) + 1):
            lanes = list(self.lanes)
            lanes[stage] = count
            finish_s[count] = self._finish_s(lanes)
        enough_s = min(finish_s.values()) * ENOUGH
        count = next(count for count, at_s in finish_s.items() if at_s <= enough_s)
        return self._saved(finish_s[count]), count

    @property
    def _least_s(self) -> list[float]:
        """Seconds that the lanes of each stage work in a batch."""
        return [work_s / lanes for work_s, lanes in zip(self.work_s, self.lanes, strict=True)]

    def _finish_s(self, lanes: Sequence[int]) -> float:
        return Forecast(self.rows, self.costs, lanes, 0.0).finish_s(self.plan)

    def _saved(self, finish_s: float) -> float:
        return 1 - finish_s / self.forecast_s if self.forecast_s else 0.0


def _cost(calls: Sequence[CallRecord]) -> Cost:
    """What a call on so many rows costs by these calls; nothing if all of them failed.

    Where there were calls of a size their mean counts, since requests differ.
    """
    taken_s: defaultdict[int, list[float]] = defaultdict(list)
    for call in calls:
        if not call.failed:
            taken_s[len(call.indices)].append(call_s(call))
    points = [
        Point(rows, fmean(seconds), error_s=0.0, calls=len(seconds), weight=1.0)
        for rows, seconds in taken_s.items()
        if any(seconds)
    ]
    return curve(points, ()) or (lambda _: 0.0)
