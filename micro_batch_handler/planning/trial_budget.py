"""What plans may lose: by trials, and by splits that were thought to pay and do not.

A trial runs a batch otherwise than planned, to see whether that would be better.
Without it, a plan that was wrong once, or has become so, would never be found out. Trials come a
few in a row, ever more seldom while they change nothing, and only while the time they have lost is
less than a small share of all time.
"""

from __future__ import annotations

__all__ = ["SplitBalance", "TrialBudget"]

SHARE = 0.01
"""Of all time, what trials may lose."""

BURST = 3
"""TrialBudget in a row: one alone may have met a pause."""

FIRST_BATCHES = 32
MOST_BATCHES = 1024
"""Batches between bursts, at first and at last."""

POSTPONED_BATCHES = 8
"""How long a trial that would cost too much is put off."""


class TrialBudget:
    """Decides which batches are trials. One thread at a time may call it, but for `due`.

    Args:
        first: the batch from which on there may be trials.
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._interval = FIRST_BATCHES
        self._left = BURST
        self._credit_s = 0.0

    def due(self, batch: int) -> bool:
        """Whether this batch, by its number, may be one."""
        return batch >= self._next

    def affords(self, loss_s: float) -> bool:
        """Whether so much more may be lost."""
        return loss_s <= self._credit_s

    def begin(self, batch: int, loss_s: float) -> bool:
        """Whether this batch shall be one, if it is expected to be finished so much later."""
        if not self.affords(loss_s):
            self._next = batch + POSTPONED_BATCHES
            return False
        self._left -= 1
        if self._left:
            self._next = batch + 1
        else:
            self._next = batch + self._interval
            self._interval = min(2 * self._interval, MOST_BATCHES)
            self._left = BURST
        return True

    def restart(self, batch: int) -> None:
        """The plan has changed from unsplit to split or back: look again soon."""
        self._interval = FIRST_BATCHES
        self._next = batch + FIRST_BATCHES
        self._left = BURST

    def allow(self, seconds: float) -> None:
        """Let trials lose so much at once, since nothing is known yet."""
        self._credit_s += seconds

    def account(self, seconds: float, lost_s: float) -> None:
        """A batch took so long, of which a trial has lost so much."""
        self._credit_s += SHARE * seconds - lost_s


MOST_CREDIT_BATCHES = 2.0
MOST_DEBT_BATCHES = 1.0
"""What the balance keeps, in unsplit batches: enough for a pause or two, little enough to notice
soon that splitting has begun to lose, and to do it again soon."""

ALLOWED_SHARE = 0.005
"""Of each batch, what splitting may lose against not splitting."""


class SplitBalance:
    """What splitting gains against not splitting, batch by batch, as measured.

    The last safeguard: whatever costs and corrections say, splitting stops while it has lost.
    One thread at a time may call it.
    """

    def __init__(self) -> None:
        self._balance = 0.0

    @property
    def is_negative(self) -> bool:
        """Whether splitting has lost more than it has gained lately, and than is allowed."""
        return self._balance < 0

    def account(self, seconds: float, whole_s: float, *, split: bool) -> None:
        """A batch took so long.

        Args:
            seconds: that it took.
            whole_s: that it is expected to take unsplit, more than 0.
            split: whether it was split, and not as a trial.
        """
        gain = max(-1.0, 1 - seconds / whole_s) if split else 0.0
        balance = self._balance + gain + ALLOWED_SHARE
        self._balance = max(-MOST_DEBT_BATCHES, min(balance, MOST_CREDIT_BATCHES))

    def reset(self) -> None:
        """What it has lost was lost against an expectation that no longer holds."""
        self._balance = max(self._balance, 0.0)
