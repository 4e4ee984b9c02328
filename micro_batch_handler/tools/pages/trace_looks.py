"""How the bars of a trace's picture look, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

__all__ = [
    "BAR",
    "CRITICAL",
    "FAILED",
    "IDLE",
    "OTHERS",
    "QUEUE",
    "WAITING",
    "Colour",
    "colour_of",
    "faint",
    "is_dark",
    "ms",
    "rows_text",
]

Colour = tuple[float, float, float, float]

BAR = 0.74
"""Of a row's height."""
QUEUE = 0.6
"""Height of a queue, in rows."""

COLOURS = "viridis"

IDLE: dict[str, Any] = {
    "facecolor": "#f4f4f4",
    "edgecolor": "#c9c9c9",
    "hatch": "////",
    "linewidth": 0,
}
WAITING: dict[str, Any] = {
    "facecolor": "#fff3e0",
    "edgecolor": "#e69138",
    "hatch": "\\\\\\\\",
    "linewidth": 0,
}
FAILED = "xxx"
"""The hatch of a call that failed."""
CRITICAL = "#d62728"
OTHERS = "#d9d9d9"
"""Rows of a host call that are not of a traced worker."""


def colour_of(rows: Sequence[int], most: int, worker: int, workers: int) -> Colour:
    """The colour of some rows, by their middle: the same in every stage.

    Args:
        rows: of a batch.
        most: that a batch of this worker has.
        worker: whose they are; each has a range of colours.
        workers: how many there are.
    """
    share = (rows[0] + rows[-1]) / 2 / max(1, most - 1)
    if workers > 1:
        share = (worker + 0.7 * share) / workers
    # Without the darkest and lightest colours, on which text and which on paper cannot be seen.
    red, green, blue, opaque = mpl.colormaps[COLOURS](0.12 + 0.83 * share)
    return red, green, blue, opaque


def faint(colour: Colour) -> Colour:
    """The colour of a call while the model host does not compute for it."""
    return (*colour[:3], 0.3)


def is_dark(colour: Colour) -> bool:
    """Whether text on it is to be white."""
    return sum(colour[:3]) < 1.5  # noqa: PLR2004 - half of what white has


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    found = seconds * 1e3
    return f"{found:.3g} ms" if found < 100 else f"{found:,.0f} ms"  # noqa: PLR2004 - no exponent


def rows_text(indices: Sequence[int]) -> str:
    """Rows as a bar says them."""
    first, last = indices[0], indices[-1]
    return str(first) if first == last else f"{first}-{last}"
