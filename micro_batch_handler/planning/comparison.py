"""Which plan is fastest for batches of about one size: the one in force against one candidate.

The costs of calls predict when a batch will be finished, but not how its calls slow each other
down: two stages that want the same cores take longer together, and how much depends on the sizes.
So a plan comes into force only after it was faster than the one in force, in turns with it:

    in force    | C     C     C   | C   C   ...
    candidate   |    B     B    B |  their times decide: go on, drop B, or use B

The whole batch is the first plan in force, and later the first candidate. The planner takes further
candidates from the cost model and from the neighbours of the plan in force.
"""

from __future__ import annotations

from collections import deque
from itertools import product
from statistics import median

from micro_batch_handler.planning.constants import (
    CHANGED,
    ENOUGH_BATCHES,
    FIRST_WAIT_BATCHES,
    GAIN,
    MOST_FAILED,
    MOST_WAIT_BATCHES,
    POSTPONED_BATCHES,
    RECENT_BATCHES,
    VERDICTS,
)
from micro_batch_handler.planning.plan import Plan

__all__ = ["Comparison"]


class Comparison:
    """Compares plans for batches of up to `rows` rows. One thread at a time may call it.

    Args:
        rows: that the sizes of the plans and all times refer to.
        whole: the plan that cuts as little as possible. It is the first in force.
    """

    def __init__(self, rows: int, whole: Plan) -> None:
        self.rows = rows
        self.whole = whole
        self.in_force = whole
        self.candidate: Plan | None = None
        self._recent_s: dict[Plan, deque[float]] = {}
        """The latest batches of the whole batch and of the plan in force."""
        self._usual_s: float | None = None
        """What a batch took with the plan in force when its waits began."""
        self._turns_s: dict[Plan, list[float]] = {}
        """Batches of the two plans since they are compared."""
        self._planned = 0
        self._batches = 0
        self._next = 0
        self._waits: dict[Plan, tuple[int, int]] = {}
        """Until which batch a plan that has lost must wait, and for how many batches it does."""

    def seconds(self, plan: Plan) -> float | None:
        """What a batch takes with the plan in force or whole; None while too few were seen."""
        recent = self._recent_s.get(plan, ())
        return median(recent) if len(recent) >= ENOUGH_BATCHES else None

    @property
    def is_open(self) -> bool:
        """Whether a candidate may be started now."""
        known = self.seconds(self.in_force) is not None
        return known and self.candidate is None and self._batches >= self._next

    def may_run(self, plan: Plan) -> bool:
        """Whether this plan may be a candidate: it is not in force and has not just lost."""
        return plan != self.in_force and self._batches >= self._waits.get(plan, (0, 0))[0]

    def start(self, candidate: Plan | None) -> None:
        """Let the candidate take turns with the plan in force; None postpones the next start."""
        self.candidate = candidate
        self._planned = 0
        if candidate is None:
            self._next = self._batches + POSTPONED_BATCHES
        else:
            self._turns_s = {self.in_force: [], candidate: []}

    def turn(self) -> Plan:
        """The plan for the next batch."""
        if self.candidate is None:
            return self.in_force
        done, more = (len(self._turns_s[plan]) for plan in (self.candidate, self.in_force))
        if done >= more:
            return self.in_force
        self._planned += 1
        if self._planned > done + MOST_FAILED:
            self._drop(self.candidate)
            return self.in_force
        return self.candidate

    def add(self, plan: Plan, seconds: float) -> float:
        """Learn from a batch.

        Args:
            plan: that the batch ran with: in force, the candidate or whole.
            seconds: that it took, or would have with `rows` rows.

        Returns:
            The seconds that the candidate has lost to the plan in force, when that is decided.
        """
        self._batches += 1
        if plan in (self.in_force, self.whole):
            self._recent_s.setdefault(plan, deque(maxlen=RECENT_BATCHES)).append(seconds)
        if plan == self.in_force:
            self._notice_change()
        if plan in self._turns_s:
            self._turns_s[plan].append(seconds)
        return 0.0 if self.candidate is None else self._judge(self.candidate)

    def _notice_change(self) -> None:
        """If batches have become slower or faster, plans that have lost need not wait any more."""
        now_s = self.seconds(self.in_force)
        if now_s is None:
            return
        if self._usual_s is None:
            self._usual_s = now_s
        elif max(now_s, self._usual_s) > CHANGED * min(now_s, self._usual_s):
            self._usual_s = now_s
            self._waits.clear()
            self._next = 0

    def _judge(self, candidate: Plan) -> float:
        """Decide by Mann and Whitney's test, the share of pairs in which the candidate is faster.

        https://en.wikipedia.org/wiki/Mann-Whitney_U_test
        """
        old_s, new_s = self._turns_s[self.in_force], self._turns_s[candidate]
        turns = min(len(old_s), len(new_s))
        if turns not in VERDICTS:
            return 0.0
        loses_with, wins_with = VERDICTS[turns]
        old_s, new_s = old_s[:turns], new_s[:turns]
        # Splitting keeps more cores busy, so it has to gain something.
        worth = {self.whole: 1 - GAIN}
        old_worth, new_worth = worth.get(self.in_force, 1.0), worth.get(candidate, 1.0)
        pairs = [(new * new_worth, old * old_worth) for new, old in product(new_s, old_s)]
        share = sum((new < old) + (new == old) / 2 for new, old in pairs) / len(pairs)
        if share >= wins_with:
            self._bring_into_force(candidate)
        elif share <= loses_with:
            self._drop(candidate)
        else:
            return 0.0
        return max(0.0, sum(new_s) - sum(old_s))

    def _bring_into_force(self, candidate: Plan) -> None:
        before, self.in_force = self.in_force, candidate
        if before != self.whole:
            del self._recent_s[before]
        recent_s = self._turns_s[candidate]
        self._recent_s[candidate] = deque(recent_s, maxlen=RECENT_BATCHES)
        self._usual_s = median(recent_s)
        self._drop(before)

    def _drop(self, loser: Plan) -> None:
        self.candidate = None
        self._turns_s = {}
        _, before = self._waits.get(loser, (0, 0))
        wait = min(2 * before, MOST_WAIT_BATCHES) or FIRST_WAIT_BATCHES
        self._waits[loser] = (self._batches + wait, wait)
