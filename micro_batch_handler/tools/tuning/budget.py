"""The time that tuning may take, in phases, and who is told how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """So many seconds from now.

    Args:
        seconds: that all phases may take together. What has begun is finished first.
        told: is told the seconds used and what is done next.
        now_s: the time.
    """

    def __init__(
        self,
        seconds: float,
        told: Callable[[float, str], None] = lambda _used_s, _doing: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self._told = told
        self._now_s = now_s
        self._began_s = now_s()

    @property
    def used_s(self) -> float:
        """Seconds since the beginning."""
        return self._now_s() - self._began_s

    def lasts(self, share: float) -> bool:
        """Whether less than this share of all time is used."""
        return self.used_s < share * self.seconds

    def doing(self, what: str) -> None:
        """Tell what is done next."""
        self._told(self.used_s, what)
