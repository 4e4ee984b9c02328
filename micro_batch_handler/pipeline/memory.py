"""Memory that runs out: freeing what a failed call held, and how many rows of a stage fit."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable

__all__ = ["Ceiling", "MemoryLimits", "free_memory"]

logger = logging.getLogger(__name__)

TRIAL_CALLS = 16
"""Good calls after which a larger size beside others is no trial any more: the first of a batch
come while others hold little."""

PATIENCE_CALLS = 64
"""Good calls at the ceiling before a larger one is tried; doubled each time that fails."""

LONGEST_PATIENCE_CALLS = 65_536


class Ceiling:
    """The largest number of rows that a stage is called with.

    Two bounds, as deepmd-kit's AutoBatchSize keeps them: the largest size that worked and the
    smallest that failed. After many good calls at the limit a size between the two is tried; once
    they meet, larger ones are, since what else is in memory changes.

    A row that does not fit alone says nothing about sizes: the failures on the way down to it are
    forgotten.

    Args:
        alone: whether its calls have nothing beside them; else the limit may become 0.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self._lock = threading.Lock()
        self._alone = alone
        self._limit = sys.maxsize
        self._worked = 0
        self._failed = sys.maxsize
        self._good_calls = 0
        self._patience_calls = PATIENCE_CALLS
        self._trying = False
        self._before = (self._limit, self._worked, self._failed)

    @property
    def limit(self) -> int:
        """The most rows to call the stage with; `sys.maxsize` while memory never ran out."""
        return self._limit

    def worked(self, rows: int) -> None:
        """A call with so many rows had enough memory; 0 for one that may not count."""
        if self._limit == sys.maxsize:
            return  # the usual case costs nothing
        with self._lock:
            self._worked = max(self._worked, rows)
            if self._worked >= self._failed:
                self._failed = 2 * self._worked + 1
            if rows < self._limit or (rows > self._limit and not self._alone):
                return  # beside others, a larger one was under way when the limit was lowered
            self._good_calls += 1
            if self._alone or self._good_calls >= TRIAL_CALLS:
                self._trying = False
            self._limit = rows
            if self._good_calls >= self._patience_calls:
                self._set_limit(max(rows + 1, (self._worked + self._failed) // 2))
                self._trying = True

    def failed(self, rows: int, *, first: bool) -> None:
        """A call with so many rows ran out of memory.

        Args:
            rows: of the call.
            first: whether none of them was in such a call just before.
        """
        with self._lock:
            if first:
                self._before = (self._limit, self._worked, self._failed)
            if self._trying and (rows == self._limit or not self._alone):
                self._patience_calls = min(2 * self._patience_calls, LONGEST_PATIENCE_CALLS)
            self._trying = False
            self._failed = min(self._failed, rows)
            # Beside others, what has worked may not work the next time.
            self._worked = min(self._worked, rows - 1 if self._alone else rows // 2)
            self._set_limit(max(int(self._alone), self._worked or rows // 2))

    def failed_alone(self) -> None:
        """One row does not fit by itself: it was behind the failures since the `first`."""
        with self._lock:
            self._limit, self._worked, self._failed = self._before

    def _set_limit(self, rows: int) -> None:
        self._limit = rows
        self._good_calls = 0

    def __repr__(self) -> str:
        limit = "none" if self._limit == sys.maxsize else self._limit
        return f"<Ceiling {limit}>"


class MemoryLimits:
    """How many rows each stage is called with, as far as memory is known to allow.

    Args:
        stages: their number.
    """

    def __init__(self, stages: int) -> None:
        self._alone = [Ceiling() for _ in range(stages)]
        """Of calls with nothing beside them."""
        self._beside = [Ceiling(alone=False) for _ in range(stages)]
        """Of calls beside others, which hold memory too; 0 if there must be none."""
        self._ran_out = False
        """Whether it ever did: until then every call is spared the look at the limits."""

    @property
    def may_overlap(self) -> bool:
        """Whether there is memory for calls beside each other."""
        return all(ceiling.limit for ceiling in self._beside)

    def limit(self, stage: int, *, serial: bool) -> int:
        """The most rows to call the stage at this position with, at least 1.

        Args:
            stage: its position.
            serial: whether the rows pass all stages in one go, with nothing beside them.
        """
        if not self._ran_out:
            return sys.maxsize
        if serial:
            return min(ceiling.limit for ceiling in self._alone)
        return max(1, min(self._alone[stage].limit, self._beside[stage].limit))

    def worked(self, stage: int, rows: int, *, alone: bool) -> None:
        """A call of the stage at this position on so many rows was good."""
        if not self._ran_out:
            return
        beside = self._beside[stage]
        if not alone:
            beside.worked(rows)
            return
        self._alone[stage].worked(rows)
        if not beside.limit:
            beside.worked(0)

    def failed(self, stage: int, rows: int, *, alone: bool, first: bool) -> None:
        """A call of the stage at this position on so many rows ran out of memory.

        Args:
            stage: its position.
            rows: of the call. A single row with nothing beside it is judged by its next call.
            alone: whether nothing ran beside it.
            first: whether none of the rows was in such a call just before.
        """
        self._ran_out = True
        if not alone:
            self._beside[stage].failed(rows, first=first)
        elif rows > 1:
            self._alone[stage].failed(rows, first=first)

    def fits_nowhere(self, stage: int, *, beside: bool) -> None:
        """A row does not fit by itself, so it was behind the failures of its batch.

        Args:
            stage: the position of the stage that it does not fit.
            beside: whether calls beside others have failed before.
        """
        self._alone[stage].failed_alone()
        if beside:
            self._beside[stage].failed_alone()


def free_memory(
    error: BaseException, release: Callable[[], None], *, thorough: bool = True
) -> None:
    """Let go of what a failed call held, and give its memory back to the device.

    The traceback's frames pin the tensors of the call
    (https://pytorch.org/docs/stable/notes/faq.html, "My out of memory exception handler can't
    allocate memory").

    Args:
        error: of the call.
        release: lets go of what is kept until the device is done with it, and of cached blocks.
        thorough: whether to look for circles among all objects, which takes tenths of a second in
            a process with large libraries; else among the younger, as those of the call are.
    """
    traceback.clear_frames(error.__traceback__)
    gc.collect(2 if thorough else 1)
    try:
        release()
    except RuntimeError:
        # These wait for the device, so another call's error may surface here. If the device is
        # lost, the next call says so too.
        logger.warning("giving memory back to the device failed", exc_info=True)
