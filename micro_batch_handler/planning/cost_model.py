"""What a batch costs with any plan, from what the calls of earlier batches took.

Calls are learned separately for whole batches, where they run alone on the machine, and for batches
in lanes, where they contend for the cores and for the interpreter: the more, the more lanes work.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import mul
from statistics import median

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.constants import HAND_OVER_S, MOST_CALLS, NOTICEABLE
from micro_batch_handler.planning.cost_curve import Curve, Point, curve
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.planning.lane_choice import LaneCounts, slower_with
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import ANY_SIZE, INFERENCE

__all__ = ["CostModel", "Observations"]


@dataclass(frozen=True)
class CostModel:
    """What calls cost, as last learned; does not change any more."""

    inline: Sequence[Curve]
    """What a call costs in a whole batch, for each stage."""

    beside: Sequence[Mapping[int, Curve]]
    """What it costs in lanes, for each stage, by the calls of the stage that run at once."""

    most_lanes: LaneCounts
    """The lanes that there are of each stage."""

    padded: Callable[[int], int]
    """The rows that a call of inference really has."""

    least: Plan = ANY_SIZE
    """For each stage, half of the smallest size that was seen more than once.

    Below that an error in the fixed cost of a call would count most."""

    hand_over_s: float = HAND_OVER_S
    """What a micro-batch costs in each stage beside the call."""

    def forecast(self, rows: int, lanes: LaneCounts = ()) -> Forecast:
        """When a batch of so many rows would be finished in so many lanes, for any sizes."""
        lanes = lanes or self.most_lanes

        def cost_s(stage: int, size: int) -> float:
            return self.in_lanes(stage, min(lanes[stage], -(-rows // size)))(size)

        costs = [partial(cost_s, stage) for stage in range(len(STAGES))]
        return Forecast(rows, self._padding(costs), lanes, self.hand_over_s)

    def in_lanes(self, stage: int, at_once: int) -> Curve:
        """What a call costs while so many of its stage run at once.

        For numbers that were not seen it is derived from the number nearest to it.
        """
        known, alone = self.beside[stage], self.inline[stage]
        if at_once in known:
            return known[at_once]
        if (at_once, stage) not in self._derived:
            self._derived[at_once, stage] = _derived(at_once, known, alone)
        return self._derived[at_once, stage]

    @cached_property
    def _derived(self) -> dict[tuple[int, int], Curve]:
        return {}

    def at_best(self, rows: int) -> Forecast:
        """The same if a call on fewer rows cost only their share of a call on the whole batch.

        Whatever is learned of smaller calls, a split can hardly be faster.
        """
        costs = [partial(mul, seconds / rows) for seconds in self.inline_s(rows)]
        return Forecast(rows, costs, self.most_lanes, self.hand_over_s)

    def batch_s(self, plan: Plan, forecast: Forecast) -> float:
        """Seconds of a batch, by its calls and their schedule.

        Args:
            plan: how the batch is cut.
            forecast: of its lanes.
        """
        if plan.fits(forecast.rows):
            return sum(self.inline_s(forecast.rows))
        return forecast.finish_s(plan)

    def inline_s(self, rows: int) -> list[float]:
        """What the calls of a whole batch cost, for each stage."""
        return [cost(rows) for cost in self._padding(self.inline)]

    def differs(self, other: CostModel, rows: Sequence[int]) -> bool:
        """Whether calls of so many rows cost noticeably more or less."""
        curves, others = self._curves(), other._curves()
        if self.least != other.least or curves.keys() != others.keys():
            return True
        pairs = [(curves[key].line, others[key].line) for key in curves]
        costs = [(a.at(count), b.at(count)) for a, b in pairs for count in rows]
        return any(abs(a - b) > NOTICEABLE * min(a, b) for a, b in costs)

    def __str__(self) -> str:
        stages = enumerate(zip(STAGES, self.most_lanes, strict=True))
        return ", ".join(
            f"{stage} {self.in_lanes(at, lanes).line}" for at, (stage, lanes) in stages
        )

    def _curves(self) -> dict[tuple[int, int], Curve]:
        """All that were learned, by stage and calls at once; 0 stands for whole batches."""
        inline = {(at, 0): found for at, found in enumerate(self.inline)}
        of_stages = enumerate(self.beside)
        return inline | {(at, n): found for at, known in of_stages for n, found in known.items()}

    def _padding(self, costs: Sequence[Cost]) -> list[Cost]:
        inference = costs[INFERENCE]
        return [costs[0], lambda rows: inference(self.padded(rows)), costs[2]]


def _derived(at_once: int, known: Mapping[int, Curve], alone: Curve) -> Curve:
    """What calls cost with a number of them at once that was not seen."""
    if not known:
        return alone
    seen = min(known, key=lambda each: abs(math.log(each / at_once)))
    own = known[seen]
    slower = max(1.0, median([own(rows) / alone(rows) for rows in own.measured or [1]]))
    floor = max((n for n in known if n < at_once), default=0)
    scaled = own.scaled(slower_with(at_once, seen, slower) / slower)
    return replace(scaled, least=known[floor] if floor else alone)


class Observations:
    """The calls of earlier batches, and of the one that runs.

    `observe` may be called from any thread; the other methods by one thread at a time.

    Args:
        most_lanes: that there are of each stage.
        padded: the rows that a call of inference really has.
        hand_over_s: what a micro-batch costs in each stage beside the call.
    """

    def __init__(
        self, most_lanes: LaneCounts, padded: Callable[[int], int], hand_over_s: float
    ) -> None:
        self._most_lanes = most_lanes
        self._padded = padded
        self._hand_over_s = hand_over_s
        self._calls: dict[Stage, deque[tuple[int, float]]] = {
            stage: deque(maxlen=MOST_CALLS) for stage in STAGES
        }
        self._inline = [CallCosts() for _ in STAGES]
        self._beside: list[dict[int, CallCosts]] = [{} for _ in STAGES]

    def observe(self, stage: Stage, rows: int, seconds: float) -> None:
        """A call of a stage succeeded and took so long."""
        self._calls[stage].append((rows, seconds))

    def forget_calls(self) -> None:
        """Do not learn from the calls of a batch that has not ended."""
        for made in self._calls.values():
            made.clear()

    def batch_ended(self, lanes: LaneCounts | None) -> None:
        """Learn from the calls since the last batch.

        Args:
            lanes: in which they ran; None if one after the other, as those of a whole batch.
        """
        for at, made in enumerate(self._calls.values()):
            if lanes is None:
                costs = self._inline[at]
            else:
                at_once = min((lanes or self._most_lanes)[at], len(made))
                costs = self._beside[at].setdefault(at_once, CallCosts())
            costs.extend(list(made))
        self.forget_calls()

    def model(self) -> CostModel | None:
        """What calls cost; None while no call of some stage has been seen.

        Calls that are not made now, inline or in lanes, are taken to have changed as those have
        that are made. Else calls from before and after a change would not fit together.
        """
        inline, beside, least = [], [], []
        for alone, in_lanes in zip(self._inline, self._beside, strict=True):
            _follow_drifts([alone, *in_lanes.values()])
            own = alone.points()
            points = {n: found for n in sorted(in_lanes) if (found := in_lanes[n].points())}
            whole = curve(own, next(iter(points.values()), []))
            if whole is None:
                return None
            inline.append(replace(whole, alone=True))
            beside.append(_beside(points, own, whole))
            least.append(_half_of_least([own, *points.values()]))
        return CostModel(
            inline, beside, self._most_lanes, self._padded, Plan(*least), self._hand_over_s
        )


def _beside(
    points: Mapping[int, Sequence[Point]], alone: Sequence[Point], whole: Curve
) -> dict[int, Curve]:
    """What calls of one stage cost in lanes, by how many run at once, fewest first.

    Neighbours do not make a call cheaper. Without this, the few sizes that ran in lanes may look as
    if small calls cost nothing, just where stages contend.
    """
    found: dict[int, Curve] = {}
    least = whole
    for at_once, own in points.items():
        known = curve(own, alone)
        if known is not None:
            least = found[at_once] = replace(known, alone=at_once == 1, least=least)
    return found


def _follow_drifts(costs: Sequence[CallCosts]) -> None:
    """Learn; let those of one stage that were not called become as much slower as the others."""
    drifts = [each.learn() for each in costs]
    known = [drift for drift in drifts if drift is not None]
    for each, drift in zip(costs, drifts, strict=True):
        if drift is None and known:
            each.follow(median(known))


def _half_of_least(points: Sequence[Sequence[Point]]) -> int:
    """Half of the smallest size of a stage that was seen more than once, else of the first seen."""
    seen = [point for each in points for point in each]
    sizes = [point.rows for point in seen if point.calls > 1] or [seen[0].rows]
    return -(-min(sizes) // 2)
