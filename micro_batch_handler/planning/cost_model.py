"""What a batch costs with any plan, from what the calls of earlier batches took.

Calls are learned separately for whole batches, where they run alone on the machine, and for batches
in lanes, where stages contend for the cores and for the interpreter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import mul

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.constants import HAND_OVER_S, MOST_CALLS, NOTICEABLE
from micro_batch_handler.planning.cost_curve import Curve, curve
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import ANY_SIZE, INFERENCE

__all__ = ["CostModel", "Observations"]


@dataclass(frozen=True)
class CostModel:
    """What calls cost, as last learned; does not change any more."""

    inline: Sequence[Curve]
    """What a call costs in a whole batch, for each stage."""

    lanes: Sequence[Curve]
    """What it costs in lanes."""

    lane_counts: Sequence[int]
    """The lanes of each stage."""

    padded: Callable[[int], int]
    """The rows that a call of inference really has."""

    least: Plan = ANY_SIZE
    """For each stage, half of the smallest size that was seen more than once.

    Below that an error in the fixed cost of a call would count most."""

    hand_over_s: float = HAND_OVER_S
    """What a micro-batch costs in each stage beside the call."""

    def forecast(self, rows: int) -> Forecast:
        """When a batch of so many rows would be finished in lanes, for any plan."""
        return Forecast(rows, self._costs(self.lanes), self.lane_counts, self.hand_over_s)

    def at_best(self, rows: int) -> Forecast:
        """The same if a call on fewer rows cost only their share of a call on the whole batch.

        Whatever is learned of smaller calls, a split can hardly be faster.
        """
        costs = [partial(mul, seconds / rows) for seconds in self.inline_s(rows)]
        return Forecast(rows, costs, self.lane_counts, self.hand_over_s)

    def batch_s(self, plan: Plan, forecast: Forecast) -> float:
        """Seconds of a batch, by its calls and their schedule.

        Args:
            plan: how the batch is cut.
            forecast: of `forecast(rows)`.
        """
        if plan.fits(forecast.rows):
            return sum(self.inline_s(forecast.rows))
        return forecast.finish_s(plan)

    def inline_s(self, rows: int) -> list[float]:
        """What the calls of a whole batch cost, for each stage."""
        return [cost(rows) for cost in self._costs(self.inline)]

    def differs(self, other: CostModel, rows: Sequence[int]) -> bool:
        """Whether calls of so many rows cost noticeably more or less."""
        if self.least != other.least:
            return True
        pairs = zip([*self.inline, *self.lanes], [*other.inline, *other.lanes], strict=True)
        costs = [(a.line.at(count), b.line.at(count)) for a, b in pairs for count in rows]
        return any(abs(a - b) > NOTICEABLE * min(a, b) for a, b in costs)

    def __str__(self) -> str:
        stages = zip(STAGES, self.lanes, strict=True)
        return ", ".join(f"{stage} {known.line}" for stage, known in stages)

    def _costs(self, curves: Sequence[Curve]) -> list[Cost]:
        inference = curves[INFERENCE]
        return [curves[0], lambda rows: inference(self.padded(rows)), curves[2]]


class Observations:
    """The calls of earlier batches, and of the one that runs.

    `observe` may be called from any thread; the other methods by one thread at a time.

    Args:
        lane_counts: of each stage.
        padded: the rows that a call of inference really has.
        hand_over_s: what a micro-batch costs in each stage beside the call.
    """

    def __init__(
        self, lane_counts: Sequence[int], padded: Callable[[int], int], hand_over_s: float
    ) -> None:
        self._lane_counts = lane_counts
        self._padded = padded
        self._hand_over_s = hand_over_s
        self._calls: dict[Stage, deque[tuple[int, float]]] = {
            stage: deque(maxlen=MOST_CALLS) for stage in STAGES
        }
        self._inline = [CallCosts() for _ in STAGES]
        self._lanes = [CallCosts() for _ in STAGES]

    def observe(self, stage: Stage, rows: int, seconds: float) -> None:
        """A call of a stage succeeded and took so long."""
        self._calls[stage].append((rows, seconds))

    def forget_calls(self) -> None:
        """Do not learn from the calls of a batch that has not ended."""
        for made in self._calls.values():
            made.clear()

    def batch_ended(self, *, inline: bool) -> None:
        """Learn from the calls since the last batch.

        Args:
            inline: whether they ran one after the other, as those of a whole batch.
        """
        costs = self._inline if inline else self._lanes
        for of_stage, made in zip(costs, self._calls.values(), strict=True):
            of_stage.extend(list(made))
        self.forget_calls()

    def model(self) -> CostModel | None:
        """What calls cost; None while no call of some stage has been seen.

        Calls that are not made now, inline or in lanes, are taken to have changed as those have
        that are made. Else calls from before and after a change would not fit together.
        """
        pairs = list(zip(self._inline, self._lanes, strict=True))
        for alone, among in pairs:
            drifts = alone.learn(), among.learn()
            if drifts[0] is None and drifts[1] is not None:
                alone.follow(drifts[1])
            elif drifts[1] is None and drifts[0] is not None:
                among.follow(drifts[0])
        points = [(alone.points(), among.points()) for alone, among in pairs]
        inline = [found for own, other in points if (found := curve(own, other)) is not None]
        lanes = [found for other, own in points if (found := curve(own, other)) is not None]
        if len(inline) < len(STAGES) or len(lanes) < len(STAGES):
            return None
        # Neighbours do not make a call cheaper. Without this, the few sizes that ran in lanes may
        # look as if small calls cost nothing, just where stages contend.
        lanes = [replace(own, least=alone) for own, alone in zip(lanes, inline, strict=True)]
        seen = [
            [point.rows for point in (*own, *other) if point.calls > 1] or [(own or other)[0].rows]
            for own, other in points
        ]
        least = Plan(*(-(-min(sizes) // 2) for sizes in seen))
        return CostModel(inline, lanes, self._lane_counts, self._padded, least, self._hand_over_s)
