"""A throttle: something is done when asked for, but not more often than its interval allows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Throttle"]


def _later(seconds: float, do: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, do)
    timer.daemon = True  # else a worker could not end before it
    timer.start()


class Throttle:
    """Calls `do` at once if the last call began long enough ago, and else once that is so.

    However often it is asked for meanwhile, `do` is called once then, in a thread of its own.

    Args:
        do: what it raises in that thread only reaches `threading.excepthook`.
        every_s: the least time from the begin of one call to the next.
        now_s: the clock.
        later: calls a function after so many seconds, in another thread.
    """

    def __init__(
        self,
        do: Callable[[], None],
        every_s: float,
        now_s: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _later,
    ) -> None:
        self._do = do
        self._every_s = every_s
        self._now_s = now_s
        self._later = later
        self._lock = threading.Lock()
        self._next_s = -math.inf
        self._waits = False

    def ask(self) -> None:
        """Have `do` called, now or soon; from any thread."""
        with self._lock:
            early_s = self._next_s - self._now_s()
            if early_s > 0 and not self._waits:
                with suppress(RuntimeError):  # no thread can be started
                    self._later(early_s, self._catch_up)
                    self._waits = True
            if self._waits:
                return
            self._next_s = self._now_s() + self._every_s
        self._do()

    def _catch_up(self) -> None:
        with self._lock:
            self._waits = False
            self._next_s = self._now_s() + self._every_s
        self._do()
