"""What one model for all workers has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["BARS", "Bar", "verdicts"]

PER_SECOND = "photos per second"
MEMORY = "GPU memory, GiB"


@dataclass(frozen=True)
class Bar:
    """A figure of one handler, as a multiple of another's.

    Args:
        name: what it compares.
        column: the figure, in the rows of shared.py.
        of: the handler that has to reach it.
        beside: the handler that it is compared with.
        least: the least multiple, or None.
        most: the largest multiple, or None.
    """

    name: str
    column: str
    of: str
    beside: str
    least: float | None = None
    most: float | None = None

    def measured(self, rows: Sequence[Mapping[str, object]]) -> float | None:
        """The multiple; None if one of the two has no figure."""
        one, other = (self._figure(rows, name) for name in (self.of, self.beside))
        return one / other if one is not None and other else None

    def _figure(self, rows: Sequence[Mapping[str, object]], handler: str) -> float | None:
        found = [row.get(self.column) for row in rows if row.get("handler") == handler]
        return found[0] if found and isinstance(found[0], (int, float)) else None

    def verdict(self, rows: Sequence[Mapping[str, object]], *, counts: bool) -> dict[str, object]:
        """A row of the report.

        Args:
            rows: of the handlers.
            counts: whether figures of this machine mean anything.
        """
        limit = f">= {self.least:g}x" if self.least is not None else f"<= {self.most:g}x"
        found = self.measured(rows) if counts else None
        if found is None:
            return {"bar": self.name, "wanted": limit, "measured": "not measured", "met": ""}
        met = found >= (self.least or 0) and found <= (self.most or float("inf"))
        return {
            "bar": self.name,
            "wanted": limit,
            "measured": f"{found:.2f}x",
            "met": "yes" if met else "NO",
        }


SHARED, PLAIN, ONE = "ours, share_model", "BaseHandler", "ours, one worker"
DECODED, DECODED_PLAIN = "ours, nvJPEG, hosted", "BaseHandler, nvJPEG, one worker"

BARS = (
    Bar("share_model beside as many BaseHandlers: rate", PER_SECOND, SHARED, PLAIN, least=0.95),
    Bar("share_model beside as many BaseHandlers: memory", MEMORY, SHARED, PLAIN, most=0.35),
    Bar("share_model beside one worker of this package", PER_SECOND, SHARED, ONE, least=3),
    Bar("nvJPEG, hosted preprocess, beside one worker", PER_SECOND, DECODED, DECODED_PLAIN, 1.7),
)
"""Of issue 17."""


def verdicts(rows: Sequence[Mapping[str, object]], *, counts: bool) -> list[dict[str, object]]:
    """A row for each bar; arguments as for `Bar.verdict`."""
    return [bar.verdict(rows, counts=counts) for bar in BARS]
