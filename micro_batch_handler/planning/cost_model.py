"""What batches and their calls have taken, and what that lets us expect of the next.

Calls are learned apart for batches that ran unsplit, alone on the machine, and for those that ran
in lanes, where stages contend for cores and for the interpreter. What calls do not tell (a stage
that looks parallel and is not) shows in whole batches: each kind of plan has a correction, by how
much its batches really took longer than their calls would.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import mul
from statistics import median

from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.cost_curve import Curve, curve
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.planning.plan import Plan

__all__ = ["Calls", "CostModel", "Observations"]

REMEMBERED_BATCHES = 9
"""Batches of a kind and of about a size that count, the latest."""

ENOUGH_BATCHES = 3
"""With fewer of about the size, all batches of the kind count."""

NOTICEABLE = 0.08
"""Changes of a cost below this are noise, and sizes stay."""

DECISIVE = 0.015
"""So large a change in what batches take may decide whether to split."""

ALL = -1
"""Where the correction of all batches stands."""

Calls = Sequence[Iterable[tuple[int, float]]]
"""For each stage, the rows and seconds of each call."""


@dataclass(frozen=True)
class CostModel:
    """What is expected, as last learned; does not change any more."""

    inline: Sequence[Curve]
    """What a call costs in a batch that runs unsplit, for each stage."""

    lanes: Sequence[Curve]
    """What it costs in lanes."""

    corrections: Mapping[tuple[bool, int], float]
    """By what factor batches take longer, for whether they were split, and how large they were."""

    least: Plan
    """For each stage, half of the smallest size that was seen more than once.

    What is known does not reach further down, where an error in what a call costs at all would
    count most.
    """

    padded: Callable[[int], int]
    lane_counts: Sequence[int]
    hand_over_s: float

    def forecast(self, rows: int) -> Forecast:
        """When a batch would be finished in lanes, if calls were all."""
        return Forecast(rows, self._costs(self.lanes), self.lane_counts, self.hand_over_s)

    def best_case(self, rows: int) -> Forecast:
        """The same if a call on fewer rows cost no more than their share of what all cost unsplit.

        Nothing that is learned of smaller calls can make a batch that is cut finish much earlier.
        """
        factor = self.correction(rows, split=False) / rows
        costs = [partial(mul, factor * seconds) for seconds in self.inline_s(rows)]
        return Forecast(rows, costs, self.lane_counts, self.hand_over_s)

    def calls_s(self, rows: int, sizes: Plan, forecast: Forecast | None = None) -> float:
        """When a batch would be finished, if calls were all."""
        if min(sizes) < rows:
            return (forecast or self.forecast(rows)).finish_s(sizes)
        return sum(self.inline_s(rows))

    def inline_s(self, rows: int) -> list[float]:
        """What the calls of a batch that runs unsplit cost, for each stage."""
        return [cost(rows) for cost in self._costs(self.inline)]

    def batch_s(self, rows: int, sizes: Plan, *, split: bool) -> float:
        """When a batch is expected to be finished."""
        return self.calls_s(rows, sizes) * self.correction(rows, split=split)

    def correction(self, rows: int, *, split: bool) -> float:
        """By what factor batches of about this size really take longer."""
        corrections = self.corrections
        about = corrections.get((split, rows.bit_length()))
        return about if about is not None else corrections.get((split, ALL), 1.0)

    def knows_slopes(self, stages: Iterable[int]) -> bool:
        """Whether it is known what a row adds to a call of these stages."""
        return all(self.lanes[stage].line.slope_known for stage in stages)

    def costs_differ(self, other: CostModel, rows: Sequence[int]) -> bool:
        """Whether calls of so many rows cost noticeably more or less."""
        stages = range(len(STAGES))
        if self.least != other.least:
            return True
        if self.knows_slopes(stages) != other.knows_slopes(stages):
            return True
        mine, theirs = [*self.inline, *self.lanes], [*other.inline, *other.lanes]
        return any(
            _differ(a.line.at(count), b.line.at(count), NOTICEABLE)
            for a, b in zip(mine, theirs, strict=True)
            for count in rows
        )

    def corrections_differ(self, other: CostModel) -> bool:
        """Whether batches take longer or shorter than they did, for what their calls cost."""
        if self.corrections.keys() != other.corrections.keys():
            return True
        return any(
            _differ(factor, other.corrections[key], DECISIVE)
            for key, factor in self.corrections.items()
        )

    def __str__(self) -> str:
        stages = zip(STAGES, self.lanes, strict=True)
        return ", ".join(f"{stage} {known.line}" for stage, known in stages)

    def _costs(self, curves: Sequence[Curve]) -> list[Cost]:
        inference = curves[1]
        return [curves[0], lambda rows: inference(self.padded(rows)), curves[2]]


class Observations:
    """Learns from batches. One thread at a time may call it.

    Args:
        lanes: of each stage.
        hand_over_s: what a micro-batch costs in each stage beside the call.
        padded: the size that a call of inference really has.
    """

    def __init__(
        self, lanes: Sequence[int], hand_over_s: float, padded: Callable[[int], int]
    ) -> None:
        self._lanes = lanes
        self._hand_over_s = hand_over_s
        self._padded = padded
        self._costs = {inline: [CallCosts() for _ in STAGES] for inline in (True, False)}
        self._batches: dict[tuple[bool, int], deque[tuple[int, Plan, float]]] = {}

    def add(self, rows: int, sizes: Plan, seconds: float, calls: Calls, *, split: bool) -> None:
        """A batch took so long, with these calls.

        Args:
            rows: of the batch.
            sizes: it was cut into.
            seconds: from its cut to its last outcome.
            calls: that succeeded.
            split: whether it was cut more than it had to be.
        """
        for costs, made in zip(self._costs[min(sizes) >= rows], calls, strict=True):
            costs.extend(made)
        key = (split, rows.bit_length())
        if key not in self._batches:
            self._batches[key] = deque(maxlen=REMEMBERED_BATCHES)
        self._batches[key].append((rows, sizes, seconds))

    def model(self) -> CostModel | None:
        """What to expect; None while no call of some stage has been seen.

        Calls that are not made now, alone or among others, take longer as those do that are: else
        what was seen before the machine became slower and after would not fit together.
        """
        for alone, among in zip(self._costs[True], self._costs[False], strict=True):
            drifts = alone.learn(), among.learn()
            if drifts[0] is None and drifts[1] is not None:
                alone.follow(drifts[1])
            elif drifts[1] is None and drifts[0] is not None:
                among.follow(drifts[0])
        inline, lanes = (
            [costs.points() for costs in self._costs[inline]] for inline in (True, False)
        )
        pairs = list(zip(inline, lanes, strict=True))
        least = [known for own, other in pairs if (known := curve(own, other)) is not None]
        found = [known for other, own in pairs if (known := curve(own, other)) is not None]
        if len(least) < len(STAGES) or len(found) < len(STAGES):
            return None
        # Neighbours do not make a call cheaper. Without this, the few sizes that ran in lanes may
        # look as if small calls cost nothing, just where stages contend.
        found = [replace(own, least=alone) for own, alone in zip(found, least, strict=True)]
        sizes = [
            [point.rows for point in (*own, *other) if point.calls > 1] or [(own or other)[0].rows]
            for own, other in pairs
        ]
        smallest = Plan(*(-(-min(seen) // 2) for seen in sizes))
        model = CostModel(least, found, {}, smallest, self._padded, self._lanes, self._hand_over_s)
        return self.corrected(model)

    def corrected(self, model: CostModel) -> CostModel:
        """The same costs, corrected by what batches have taken since."""
        return replace(model, corrections=self._corrections(model))

    def _corrections(self, model: CostModel) -> dict[tuple[bool, int], float]:
        expected: dict[tuple[int, Plan], float] = {}
        corrections: dict[tuple[bool, int], float] = {}
        ratios: dict[bool, list[float]] = {True: [], False: []}
        for (split, about), batches in self._batches.items():
            own = []
            for rows, sizes, seconds in batches:
                if (rows, sizes) not in expected:
                    expected[rows, sizes] = model.calls_s(rows, sizes)
                own.append(seconds / expected[rows, sizes])
            ratios[split] += own
            if len(own) >= ENOUGH_BATCHES:
                corrections[split, about] = median(own)
        for split, all_of_them in ratios.items():
            if all_of_them:
                corrections[split, ALL] = median(all_of_them)
        return corrections


def _differ(one: float, other: float, share: float) -> bool:
    return abs(one - other) > share * min(one, other)
