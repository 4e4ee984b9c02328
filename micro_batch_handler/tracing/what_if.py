"""What a batch took, and what it would take if something were different.

By the planner's own forecast, with the costs that its calls show and no cost for handing over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.records import INLINE, CallRecord
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.tracing.recording import Setup, TracedBatch

__all__ = ["WhatIf"]

ENOUGH = 1.05
"""Of the time with as many lanes as there are cores, what fewer may take."""


class WhatIf:
    """Batches of one kind: equal rows, equal sizes; at least one, with calls.

    Stages are given by their place in a row. What would be saved is a share of the time.
    """

    def __init__(self, batches: Sequence[TracedBatch], setup: Setup) -> None:
        self.setup = setup
        self.rows, self.sizes = batches[0].rows, batches[0].sizes
        self.calls = [call for batch in batches for call in batch.calls]
        self.inline = all(call.thread == INLINE for call in self.calls)
        """Whether they ran unsplit, in the caller's thread."""
        self.wall_s = fmean(batch.wall_s for batch in batches)
        self.lanes = [1 if self.inline else setup.lanes[stage] for stage in STAGES]
        """That were used."""
        self._least_s = [
            sum(_seconds(call) for call in self.calls if call.stage == stage)
            / (len(batches) * lanes)
            for stage, lanes in zip(STAGES, self.lanes, strict=True)
        ]
        self.busy = [least / self.wall_s if self.wall_s else 0.0 for least in self._least_s]
        """The share of the batch that the lanes of each stage worked, on average."""
        self.busiest = max(range(len(STAGES)), key=self._least_s.__getitem__)
        self._costs = [self._cost(stage) for stage in STAGES]
        self.forecast_s = self._finish_s(self._costs, self.lanes)
        """What the batch takes by forecast, which is what the changes are compared with."""

    def count(self, stage: int) -> int:
        """Micro-batches of a stage."""
        return -(-self.rows // self.sizes[stage])

    def saved_by_ease(self, stage: int) -> float:
        """If the calls of the stage cost nothing."""
        costs = list(self._costs)
        costs[stage] = lambda _: 0.0
        return self._saved(self._finish_s(costs, self.lanes))

    def saved_by_endless_batches(self) -> float:
        """If batches never ended: for each row, the busiest stage would be all that counts."""
        return self._saved(self._least_s[self.busiest])

    def saved_by_lanes(self, stage: int) -> tuple[float, int]:
        """If the stage had as many lanes as it has use for, up to the cores; and how many."""
        finish_s = {}
        for lanes in range(self.lanes[stage], max(self.lanes[stage], self.setup.cores) + 1):
            given = list(self.lanes)
            given[stage] = lanes
            finish_s[lanes] = self._finish_s(self._costs, given)
        enough_s = min(finish_s.values()) * ENOUGH
        lanes = next(lanes for lanes, at_s in finish_s.items() if at_s <= enough_s)
        return self._saved(finish_s[lanes]), lanes

    def _finish_s(self, costs: Sequence[Cost], lanes: Sequence[int]) -> float:
        return Forecast(self.rows, costs, lanes, 0.0).finish_s(self.sizes)

    def _saved(self, finish_s: float) -> float:
        return 1 - finish_s / self.forecast_s if self.forecast_s else 0.0

    def _cost(self, stage: Stage) -> Cost:
        """Seconds of a call: as measured, and by the row where no call had so many."""
        taken_s: dict[int, list[float]] = defaultdict(list)
        for call in self.calls:
            if call.stage == stage and not call.failed:
                taken_s[len(call.indices)].append(_seconds(call))
        means_s = {rows: fmean(seconds) for rows, seconds in taken_s.items()}

        def cost(rows: int) -> float:
            if not means_s:
                return 0.0
            near = min(means_s, key=lambda known: abs(known - rows))
            return means_s[near] * rows / near

        return cost


def _seconds(call: CallRecord) -> float:
    return call.ended_s - call.began_s
