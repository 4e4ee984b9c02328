"""What the calls of one stage took, by their number of rows."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from micro_batch_handler.planning.constants import (
    ENOUGH_CALLS,
    FADES,
    FORGOTTEN,
    MOST_CALLS,
    REMEMBERED,
)
from micro_batch_handler.planning.cost_curve import Point

__all__ = ["CallCosts"]


class _Size:
    """The calls of one size."""

    __slots__ = ("seconds", "weight")

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=REMEMBERED)
        self.weight = 1.0

    def estimate_s(self) -> float:
        return median(self.seconds)

    def error_s(self) -> float:
        """The standard error of the median, from the median deviation.

        Both as of a normal distribution, https://en.wikipedia.org/wiki/Median_absolute_deviation.
        """
        calls = len(self.seconds)
        if calls < ENOUGH_CALLS:
            return math.inf
        middle_s = self.estimate_s()
        deviation_s = median(abs(each - middle_s) for each in self.seconds)
        return 1.4826 * deviation_s * 1.2533 / math.sqrt(calls)

    def scale(self, factor: float) -> None:
        self.seconds = deque((each * factor for each in self.seconds), maxlen=REMEMBERED)


class CallCosts:
    """What the calls of one stage took.

    `observe` may be called from any thread; the other methods by one thread at a time.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, float]] = deque(maxlen=MOST_CALLS)
        self._sizes: dict[int, _Size] = {}

    def observe(self, rows: int, seconds: float) -> None:
        """A call on so many rows took so long."""
        self._pending.append((rows, seconds))

    def extend(self, calls: Iterable[tuple[int, float]]) -> None:
        """Several calls, each with its rows and seconds."""
        self._pending.extend(calls)

    def points(self) -> list[Point]:
        """What is known of each size, with the calls since the last time."""
        self.learn()
        return [
            Point(rows, size.estimate_s(), size.error_s(), len(size.seconds), size.weight)
            for rows, size in sorted(self._sizes.items())
        ]

    def learn(self) -> float | None:
        """Learn from the calls since the last time.

        If calls of the sizes seen now take longer than before, calls of other sizes will too. So
        what is known of those is scaled by the same factor. Otherwise a machine that has become
        slower would look like one whose small calls have.

        Returns:
            By what factor the calls take longer than before; None if there were none.
        """
        fresh: dict[int, list[float]] = {}
        while self._pending:
            rows, seconds = self._pending.popleft()
            if rows > 0 and seconds > 0 and math.isfinite(seconds):
                fresh.setdefault(rows, []).append(seconds)
        if not fresh:
            return None
        drifts = []
        for rows, seen in fresh.items():
            size = self._sizes.setdefault(rows, _Size())
            before_s = size.estimate_s() if size.seconds else None
            size.seconds.extend(seen)
            size.weight = 1.0
            if before_s is not None:
                drifts.append(math.log(size.estimate_s() / before_s))
        drift = math.exp(math.fsum(drifts) / len(drifts)) if drifts else 1.0
        self._fade(self._sizes.keys() - fresh.keys(), drift)
        return drift

    def follow(self, drift: float) -> None:
        """Scale all that is known by a factor that was learned from other calls."""
        self._fade(set(self._sizes), drift)

    def _fade(self, sizes: set[int], drift: float) -> None:
        """What is known of these sizes, which were not seen, counts less, until it is forgotten."""
        for rows in sizes:
            size = self._sizes[rows]
            size.scale(drift)
            size.weight *= FADES
            if size.weight < FORGOTTEN:
                del self._sizes[rows]
