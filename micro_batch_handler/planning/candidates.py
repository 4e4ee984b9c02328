"""Which plans may be faster than the one in force, by the cost model."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from micro_batch_handler.planning.comparison import Comparison
from micro_batch_handler.planning.constants import GAIN, SEARCHES, SLOWER, VERDICTS
from micro_batch_handler.planning.cost_model import CostModel
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.lane_choice import LaneCounts, beside
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.search import best, neighbours
from micro_batch_handler.planning.sizes import SizeOptions

__all__ = ["Candidates"]


class Candidates:
    """Plans that are worth trying. One thread at a time may call it.

    Args:
        options: the sizes that may be chosen.
        lane_choices: the numbers of lanes that may be chosen, the most first.
        model: what calls cost; None while nothing is known.
        turns: the same numbers of lanes, in the order in which plans are searched for them.
    """

    def __init__(
        self,
        options: SizeOptions,
        lane_choices: Sequence[LaneCounts],
        model: CostModel | None = None,
        turns: deque[LaneCounts] | None = None,
    ) -> None:
        self.options = options
        self.model = model
        self._lane_choices = lane_choices if len(lane_choices) > 1 else [()]
        self._turns = turns or deque(self._lane_choices)
        self._proposed: dict[int, dict[LaneCounts, Plan] | None] = {}
        """By the rows of a batch and the lanes; None where no split can pay."""
        self._adapted: dict[tuple[Plan, int], Plan] = {}
        self._forecasts: dict[tuple[int, LaneCounts], Forecast] = {}

    def following(self, options: SizeOptions, model: CostModel | None) -> Candidates:
        """The candidates that take the place of these, with other options or another model."""
        return Candidates(options, self._lane_choices, model, self._turns)

    def adapted(self, plan: Plan, rows: int) -> Plan:
        """The plan for another number of rows, see `SizeOptions.adapted`."""
        if (plan, rows) not in self._adapted:
            self._adapted[plan, rows] = self.options.adapted(plan, rows)
        return self._adapted[plan, rows]

    def scale(self, plan: Plan, rows: int, to_rows: int) -> float | None:
        """By what factor a batch of `to_rows` takes longer; None if that is not known.

        The plan is adapted to both.
        """
        if rows == to_rows:
            return 1.0
        due_s, to_s = (self._batch_s(self.adapted(plan, at), at) for at in (rows, to_rows))
        return to_s / due_s if due_s and to_s else None

    def best(self, comparison: Comparison, loss_budget_s: float) -> Plan | None:
        """The most promising candidate that may run and whose loss can be afforded; or None.

        The whole batch comes first: it is what every split has to be faster than.

        Args:
            comparison: that the candidate is for.
            loss_budget_s: what the candidate may be expected to lose.
        """
        in_force, whole = comparison.in_force, comparison.whole
        usual_s, whole_s = comparison.seconds(in_force) or 0.0, comparison.seconds(whole)
        plans = filter(comparison.may_run, self._plans(in_force, comparison.rows))
        slower = {plan: self._slower(plan, in_force, comparison.rows) for plan in plans}
        if whole in slower and whole_s is not None:
            slower[whole] = whole_s / usual_s - 1
        for plan in sorted(slower, key=lambda plan: (plan != whole, slower[plan])):
            if plan != whole and slower[plan] > SLOWER:
                break
            loss_s = min(VERDICTS) * usual_s * max(0.0, slower[plan])
            if loss_s <= loss_budget_s or (plan == whole and not loss_s):
                return plan
        return None

    def _plans(self, in_force: Plan, rows: int) -> list[Plan]:
        """The whole batch and, if a split can pay, the model's proposals and the neighbours."""
        whole, lanes = self.options.whole(rows), in_force.lanes or self._lane_choices[0]
        others = beside(lanes, self._lane_choices)
        if self.model is not None:
            self._propose(rows, lanes, self.model)
        proposed = self._proposed.get(rows)
        if not proposed:
            return [whole]
        found = [whole, *list(proposed.values())[::-1]]
        found += neighbours(in_force.with_lanes(lanes), self.options, rows)
        found += map(in_force.with_lanes, others)
        return [self.adapted(plan, rows) for plan in found]

    def _slower(self, plan: Plan, in_force: Plan, rows: int) -> float:
        """By what share a batch would be slower than with the plan in force; negative if faster."""
        usual_s, due_s = self._batch_s(in_force, rows), self._batch_s(plan, rows)
        return due_s / usual_s - 1 if due_s and usual_s else 0.0

    def _batch_s(self, plan: Plan, rows: int) -> float | None:
        """Seconds of a batch by the model; None while nothing is known."""
        if self.model is None:
            return None
        return self.model.batch_s(plan, self._forecast(rows, plan.lanes, self.model))

    def _forecast(self, rows: int, lanes: LaneCounts, model: CostModel) -> Forecast:
        if (rows, lanes) not in self._forecasts:
            self._forecasts[rows, lanes] = model.forecast(rows, lanes)
        return self._forecasts[rows, lanes]

    def _propose(self, rows: int, lanes: LaneCounts, model: CostModel) -> None:
        """Find what the model takes to be fastest in so many lanes, if a split can pay.

        Each time also in a few of the other numbers, in turn: a search takes milliseconds, and a
        batch waits for it.
        """
        if rows not in self._proposed:
            at_best = model.at_best(rows)
            at_best_s = at_best.finish_s(best(at_best, self.options))
            pays = at_best_s < (1 - GAIN) * sum(model.inline_s(rows))
            self._proposed[rows] = {} if pays else None
        known = self._proposed[rows]
        if known is None:
            return
        wanted = [] if lanes in known else [lanes]
        # Before anything ran in lanes, one trial tells what smaller calls cost in any number.
        if any(model.beside):
            others = [each for each in self._turns if each not in (lanes, *known)]
            wanted += others[: SEARCHES - len(wanted)]
            for each in wanted:
                self._turns.remove(each)
                self._turns.append(each)
        for each in wanted:
            found = best(self._forecast(rows, each, model), self.options, model.least)
            known[each] = found.with_lanes(each)
