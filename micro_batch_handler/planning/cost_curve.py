"""What a call costs for any number of rows: a line through the measurements, with exceptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from micro_batch_handler.planning.constants import OUTLIER, SPREAD

__all__ = ["Curve", "Line", "Point", "curve", "fit"]


@dataclass(frozen=True)
class Line:
    """Seconds of a call on k rows: `fixed_s + row_s * k`; neither is negative."""

    fixed_s: float
    row_s: float
    slope_known: bool = True
    """False if all calls had about the same size: then the line is level and holds only there."""

    def at(self, rows: int) -> float:
        """Seconds of a call on so many rows."""
        return self.fixed_s + self.row_s * rows

    def __str__(self) -> str:
        fixed = f"{self.fixed_s * 1000:.3g}"
        return f"{fixed}+{self.row_s * 1000:.3g}k ms" if self.slope_known else f"{fixed} ms"


@dataclass(frozen=True)
class Point:
    """What calls of one size took."""

    rows: int
    seconds: float
    """The median."""

    error_s: float
    """By how much the median may be wrong (its standard error); infinite for a few calls."""

    calls: int
    weight: float


@dataclass(frozen=True)
class Curve:
    """Seconds of a call on any number of rows, as last learned. It is never changed."""

    line: Line
    measured: Mapping[int, float] = field(default_factory=dict)
    """Seconds of a call, for the numbers of rows that were measured; see `_drawn`."""

    alone: bool = False
    """Whether no other call of the stage ran beside these."""

    least: Curve | None = None
    """What a call costs at least."""

    def __call__(self, rows: int) -> float:
        """Seconds of a call on so many rows.

        A call on fewer rows than were measured is taken to cost its share of the smallest measured
        call, unless the line is known from calls that ran alone. That is the least it can cost, so
        plans with smaller calls are tried: the fixed cost that calls beside each other show may be
        what they wait for one another.
        """
        seconds = self.measured.get(rows)
        if seconds is None:
            smallest = min(self.measured, default=rows)
            if rows < smallest and not (self.alone and self.line.slope_known):
                seconds = self.measured[smallest] * rows / smallest
            else:
                seconds = self.line.at(rows)
        return seconds if self.least is None else max(seconds, self.least(rows))

    def scaled(self, factor: float) -> Curve:
        """The same with all costs so many times as high, but for the least."""
        line = replace(
            self.line, fixed_s=factor * self.line.fixed_s, row_s=factor * self.line.row_s
        )
        measured = {rows: factor * seconds for rows, seconds in self.measured.items()}
        return replace(self, line=line, measured=measured)


def fit(points: Sequence[Point]) -> Line | None:
    """The line through the points; None without any.

    Least squares of the relative errors, because long calls vary by more seconds than short ones,
    with points far off the line counted less (iteratively reweighted least squares with Cauchy's
    weights, https://en.wikipedia.org/wiki/M-estimator).
    """
    if not points:
        return None
    # One call alone may have been a pause; it counts only where there is nothing better.
    points = [point for point in points if point.calls > 1] or points
    weights = [point.weight * point.calls / point.seconds**2 for point in points]
    if not _spread(points):
        total = math.fsum(weights)
        level = math.fsum(w * p.seconds for w, p in zip(weights, points, strict=True)) / total
        return Line(level, 0.0, slope_known=False)
    line = _least_squares(points, weights)
    for _ in range(3 if len(points) > 2 else 0):  # noqa: PLR2004  (two points have no outlier)
        # Relative to the line, since points that are too low would weigh more by themselves.
        due_s = [line.at(point.rows) for point in points]
        off = [abs(point.seconds / due - 1) for point, due in zip(points, due_s, strict=True)]
        usual = max(OUTLIER, 2 * median(off))
        weights = [
            point.weight * point.calls / (due**2 * (1 + (each / usual) ** 2))
            for point, due, each in zip(points, due_s, off, strict=True)
        ]
        line = _least_squares(points, weights)
    return line


def curve(own: Sequence[Point], other: Sequence[Point]) -> Curve | None:
    """What calls cost, inline or in lanes; None if no calls were measured.

    Args:
        own: calls of this kind.
        other: calls of the other kind. They tell how cost grows with rows if the own calls had all
            about the same size, but not how high it is.
    """
    line = fit(own)
    if line is not None and line.slope_known:
        return _drawn(line, own)
    if line is None:
        shape = fit(other)
        return None if shape is None else _drawn(shape, other)
    shape = fit(other)
    if shape is None or not shape.slope_known:
        shape = fit([*own, *other])
    if shape is None or not shape.slope_known:
        return _drawn(line, own)
    level = median(point.seconds / shape.at(point.rows) for point in own)
    return _drawn(Line(shape.fixed_s * level, shape.row_s * level), own)


def _drawn(line: Line, points: Sequence[Point]) -> Curve:
    """The line, moved towards each median that is further from it than chance explains.

    A median at distance d from the line, with error e, moves it by d^2 / (d^2 + (2 e)^2) of d.
    """
    measured = {}
    for point in points:
        due_s = line.at(point.rows)
        off_s = point.seconds - due_s
        weight = 1 / (1 + (2 * point.error_s / off_s) ** 2) if off_s else 0.0
        measured[point.rows] = due_s + off_s * weight
    return Curve(line, measured)


def _spread(points: Sequence[Point]) -> bool:
    sizes = [point.rows for point in points]
    return bool(sizes) and max(sizes) >= SPREAD * min(sizes)


def _least_squares(points: Sequence[Point], weights: Sequence[float]) -> Line:
    """The line of least squares among those with neither part negative."""
    total = math.fsum(weights)
    rows = math.fsum(w * p.rows for w, p in zip(weights, points, strict=True))
    squares = math.fsum(w * p.rows**2 for w, p in zip(weights, points, strict=True))
    seconds = math.fsum(w * p.seconds for w, p in zip(weights, points, strict=True))
    products = math.fsum(w * p.rows * p.seconds for w, p in zip(weights, points, strict=True))
    spread = total * squares - rows**2
    row_s = (total * products - rows * seconds) / spread if spread > 0 else 0.0
    if row_s <= 0:
        return Line(seconds / total, 0.0)
    fixed_s = (seconds - row_s * rows) / total
    return Line(fixed_s, row_s) if fixed_s >= 0 else Line(0.0, products / squares)
