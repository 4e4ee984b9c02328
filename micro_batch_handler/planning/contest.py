"""Which sizes finish batches of n earliest, found by trying: a champion, and who challenges it.

What calls cost foretells when a batch is finished, but not how its calls get in each other's way:
two stages that want the same cores take longer together, and how much depends on the sizes. So what
is in force for batches of one size is changed only for what was faster, in turns with it:

    champion    | C     C     C   | C   C   ...
    challenger  |    B     B    B |  the ranks of their times decide: on, lost, or the new champion

Challengers are what calls foretell to be best, and the champion's neighbours: sizes doubled or
halved in some stages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from statistics import median

from micro_batch_handler.planning.schedule import Sizes

__all__ = ["Contest", "neighbours"]

VERDICTS = {2: (0.0, 1.1), 3: (0.5, 1.0), 6: (0.75, 0.75)}
"""After so many turns each: with no more than the first share of pairs in which the challenger was
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
"""A champion that has not run for so long is known by the costs of its calls only."""


class Contest:
    """For batches of one size. One thread at a time may call it.

    Args:
        champion: the sizes that are in force.
    """

    def __init__(self, champion: Sizes) -> None:
        self.champion = champion
        self._recent_s: deque[float] = deque(maxlen=REMEMBERED_BATCHES)
        self._ran_at = 0
        self._challenger: Sizes | None = None
        self._times_s: dict[Sizes, list[float]] = {}
        """Of the two, since the challenge."""
        self._waits: dict[Sizes, tuple[int, int]] = {}
        """Until which batch a loser must wait, and how long it does."""
        self._next = 0

    def champion_s(self, batch: int) -> float | None:
        """What a batch takes with the champion; None while that is not known, or not any more."""
        known = len(self._recent_s) >= ENOUGH_BATCHES and batch < self._ran_at + STALE_BATCHES
        return median(self._recent_s) if known else None

    def is_open(self, batch: int) -> bool:
        """Whether somebody may challenge the champion now, who is known well enough."""
        known = self.champion_s(batch) is not None
        return known and self._challenger is None and batch >= self._next

    def may_challenge(self, sizes: Sizes, batch: int) -> bool:
        """Whether these may: others than the champion, who have not just lost."""
        return sizes != self.champion and batch >= self._waits.get(sizes, (0, 0))[0]

    def strongest(
        self, others: Iterable[Sizes], due_s: Callable[[Sizes], float], batch: int
    ) -> tuple[Sizes, float] | None:
        """Who of others should challenge, and what it is expected to lose until that shows.

        Args:
            others: sizes.
            due_s: when a batch would be finished, by what calls cost.
            batch: that comes next.
        """
        champion_s = self.champion_s(batch)
        found = [sizes for sizes in others if self.may_challenge(sizes, batch)]
        if champion_s is None or not found:
            return None
        best = min(found, key=due_s)
        loss_s = champion_s * (due_s(best) / due_s(self.champion) - 1)
        return best, min(VERDICTS) * max(0.0, loss_s)

    def challenge(self, sizes: Sizes | None, batch: int) -> None:
        """Let these sizes take turns with the champion from now on; None if nobody can now."""
        self._challenger = sizes
        if sizes is None:
            self._next = batch + POSTPONED_BATCHES
        else:
            self._times_s = {self.champion: [], sizes: []}

    def turn(self) -> Sizes:
        """Whose turn it is."""
        challenger = self._challenger
        if challenger is None:
            return self.champion
        champions, challengers = (len(self._times_s[each]) for each in (self.champion, challenger))
        return challenger if challengers < champions else self.champion

    def ended(self, batch: int, sizes: Sizes, seconds: float) -> bool:
        """A batch took so long; whether there is a new champion."""
        if sizes == self.champion:
            self._recent_s.append(seconds)
            self._ran_at = batch
        times_s = self._times_s.get(sizes)
        if times_s is None or self._challenger is None:
            return False
        times_s.append(seconds)
        return self._judge(self._challenger, batch)

    def _judge(self, challenger: Sizes, batch: int) -> bool:
        old_s, new_s = self._times_s[self.champion], self._times_s[challenger]
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
        self._challenger = None
        self._wait(self.champion if wins else challenger, batch)
        if wins:
            self.champion = challenger
            self._recent_s = deque(new_s, maxlen=REMEMBERED_BATCHES)
            self._ran_at = batch
        self._times_s = {}
        return wins

    def _wait(self, loser: Sizes, batch: int) -> None:
        _, before = self._waits.get(loser, (0, FIRST_WAIT_BATCHES // 2))
        wait = min(2 * before, MOST_WAIT_BATCHES)
        self._waits[loser] = (batch + wait, wait)


def neighbours(
    sizes: Sizes, options: Sequence[Sequence[int]], groups: Iterable[Sequence[int]]
) -> list[Sizes]:
    """The sizes doubled or halved in each group of stages, as far as there are such options.

    Args:
        sizes: to start from.
        options: the sizes that each stage may have, descending.
        groups: stages that are changed together.
    """
    found: list[Sizes] = []
    for stages, change in product(groups, (_half, _double)):
        changed = tuple(
            change(size, options[at]) if at in stages else size for at, size in enumerate(sizes)
        )
        if changed != sizes and changed not in found:
            found.append(changed)
    return found


def _half(size: int, options: Sequence[int]) -> int:
    return next((option for option in options if 2 * option <= size), options[-1])


def _double(size: int, options: Sequence[int]) -> int:
    return next((option for option in reversed(options) if option >= 2 * size), options[0])
