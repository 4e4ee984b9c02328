"""Which sizes finish batches of n earliest, found by trying: the one in force against a candidate.

What calls cost foretells when a batch is finished, but not how its calls get in each other's way:
two stages that want the same cores take longer together, and how much depends on the sizes. So what
is in force for batches of one size is changed only for what was faster, in turns with it:

    incumbent    | C     C     C   | C   C   ...
    candidate  |    B     B    B |  the ranks of their times decide: on, lost, or the new incumbent

Candidates are what calls foretell to be best, and the incumbent's neighbours: sizes doubled or
halved in some stages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import median

from micro_batch_handler.planning.plan import Plan

__all__ = ["Comparison", "neighbours"]

VERDICTS = {2: (0.0, 1.1), 3: (0.5, 1.0), 6: (0.75, 0.75)}
"""After so many turns each: with no more than the first share of pairs in which the candidate was
faster it has lost, with at least the second it has won.

By chance, equals win one time in fourteen (Mann and Whitney's test,
https://en.wikipedia.org/wiki/Mann-Whitney_U_test), which costs nothing.
"""

FIRST_WAIT_BATCHES = 64
MOST_WAIT_BATCHES = 4096
"""How long a loser must wait: twice as long each time."""

POSTPONED_BATCHES = 8
"""Until somebody else may challenge, if nobody could."""

REMEMBERED_BATCHES = 9
ENOUGH_BATCHES = 3
STALE_BATCHES = 64
"""A incumbent that has not run for so long is known by the costs of its calls only."""


class Comparison:
    """For batches of one size. One thread at a time may call it.

    Args:
        incumbent: the sizes that are in force.
    """

    def __init__(self, incumbent: Plan) -> None:
        self.incumbent = incumbent
        self._recent_s: deque[float] = deque(maxlen=REMEMBERED_BATCHES)
        self._ran_at = 0
        self._candidate: Plan | None = None
        self._times_s: dict[Plan, list[float]] = {}
        """Of the two, since the challenge."""
        self._waits: dict[Plan, tuple[int, int]] = {}
        """Until which batch a loser must wait, and how long it does."""
        self._next = 0

    def incumbent_s(self, batch: int) -> float | None:
        """What a batch takes with the incumbent; None while that is not known, or not any more."""
        known = len(self._recent_s) >= ENOUGH_BATCHES and batch < self._ran_at + STALE_BATCHES
        return median(self._recent_s) if known else None

    def is_open(self, batch: int) -> bool:
        """Whether somebody may challenge the incumbent now, who is known well enough."""
        known = self.incumbent_s(batch) is not None
        return known and self._candidate is None and batch >= self._next

    def may_run(self, sizes: Plan, batch: int) -> bool:
        """Whether these may: others than the incumbent, who have not just lost."""
        return sizes != self.incumbent and batch >= self._waits.get(sizes, (0, 0))[0]

    def most_promising(
        self, others: Iterable[Plan], due_s: Callable[[Plan], float], batch: int
    ) -> tuple[Plan, float] | None:
        """Who of others should challenge, and what it is expected to lose until that shows.

        Args:
            others: sizes.
            due_s: when a batch would be finished, by what calls cost.
            batch: that comes next.
        """
        incumbent_s = self.incumbent_s(batch)
        found = [sizes for sizes in others if self.may_run(sizes, batch)]
        if incumbent_s is None or not found:
            return None
        best = min(found, key=due_s)
        loss_s = incumbent_s * (due_s(best) / due_s(self.incumbent) - 1)
        return best, min(VERDICTS) * max(0.0, loss_s)

    def start(self, sizes: Plan | None, batch: int) -> None:
        """Let these sizes take turns with the incumbent from now on; None if nobody can now."""
        self._candidate = sizes
        if sizes is None:
            self._next = batch + POSTPONED_BATCHES
        else:
            self._times_s = {self.incumbent: [], sizes: []}

    def turn(self) -> Plan:
        """Whose turn it is."""
        candidate = self._candidate
        if candidate is None:
            return self.incumbent
        incumbents, candidates = (len(self._times_s[each]) for each in (self.incumbent, candidate))
        return candidate if candidates < incumbents else self.incumbent

    def ended(self, batch: int, sizes: Plan, seconds: float) -> bool:
        """A batch took so long; whether there is a new incumbent."""
        if sizes == self.incumbent:
            self._recent_s.append(seconds)
            self._ran_at = batch
        times_s = self._times_s.get(sizes)
        if times_s is None or self._candidate is None:
            return False
        times_s.append(seconds)
        return self._judge(self._candidate, batch)

    def _judge(self, candidate: Plan, batch: int) -> bool:
        old_s, new_s = self._times_s[self.incumbent], self._times_s[candidate]
        turns = min(len(old_s), len(new_s))
        if turns not in VERDICTS:
            return False
        loses_with, wins_with = VERDICTS[turns]
        old_s, new_s = old_s[:turns], new_s[:turns]
        faster = sum((new < old) + (new == old) / 2 for new, old in product(new_s, old_s))
        share = faster / turns**2
        wins = share >= wins_with
        if not wins and share > loses_with:
            return False
        self._candidate = None
        self._wait(self.incumbent if wins else candidate, batch)
        if wins:
            self.incumbent = candidate
            self._recent_s = deque(new_s, maxlen=REMEMBERED_BATCHES)
            self._ran_at = batch
        self._times_s = {}
        return wins

    def _wait(self, loser: Plan, batch: int) -> None:
        _, before = self._waits.get(loser, (0, FIRST_WAIT_BATCHES // 2))
        wait = min(2 * before, MOST_WAIT_BATCHES)
        self._waits[loser] = (batch + wait, wait)


def neighbours(
    sizes: Plan, options: Sequence[Sequence[int]], groups: Iterable[Sequence[int]]
) -> list[Plan]:
    """The sizes doubled or halved in each group of stages, as far as there are such options.

    Args:
        sizes: to start from.
        options: the sizes that each stage may have, descending.
        groups: stages that are changed together.
    """
    found: list[Plan] = []
    for stages, change in product(groups, (_half, _double)):
        changed = Plan(
            *(change(size, options[at]) if at in stages else size for at, size in enumerate(sizes))
        )
        if changed != sizes and changed not in found:
            found.append(changed)
    return found


def _half(size: int, options: Sequence[int]) -> int:
    return next((option for option in options if 2 * option <= size), options[-1])


def _double(size: int, options: Sequence[int]) -> int:
    return next((option for option in reversed(options) if option >= 2 * size), options[0])
