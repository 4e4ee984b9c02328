"""What a check that has not failed says: one line on what was asked, and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from micro_batch_handler.tools.checking.alone import Alone
from micro_batch_handler.tools.checking.batches import Batches
from micro_batch_handler.tools.checking.requests import Requests

__all__ = ["report_lines"]

_SIZES = "in micro-batches of"


def report_lines(alone: Alone, batches: Batches, warnings: Sequence[str]) -> list[str]:
    """What to print.

    Args:
        alone: one by one.
        batches: all at once.
        warnings: the package's.
    """
    notes = [*_notes(alone, batches), *warnings]
    return [_summary(alone.asked.requests, batches), *(f"check: note: {note}" for note in notes)]


def _summary(requests: Requests, batches: Batches) -> str:
    number = len(requests)
    asked = f"{number} requests" if number > 1 else "1 request"
    if requests.names:
        asked += f", each with its own {', '.join(requests.names)},"
    if not batches.done:
        return f"check: {asked} alone"
    came = "all answered" if batches.differs else "the same answers"
    return f"check: {asked} {_listed(['alone', *batches.done])}: {came}"


def _notes(alone: Alone, batches: Batches) -> Iterator[str]:
    if alone.asked.requests.unused:
        number = len(alone.asked.requests)
        yield f"{number} requests are the most, so the last samples were not sent"
    if alone.left_out:
        names = ", ".join(alone.left_out)
        yield f"{names} was not sent, since the handler refuses a text of the check's there"
    if batches.differs:
        also = ", also without micro-batching" if batches.cuts else ""
        yield f"answers differ with the batch that they are in{also}: {batches.differs}"
    if batches.unknown:
        yield (
            f"no batches were asked, since the settings of the micro_batch_handler in the archive "
            f"cannot be changed: {batches.unknown}"
        )
    if alone.unsteady:
        yield (
            f"of {len(alone.unsteady)} requests only the status was compared, since their answers "
            f"are not the same each time"
        )
    more = [f"{alone.unasked} more requests"] if alone.unasked else []
    if more or batches.skipped:
        yield f"there was no time for {', '.join([*more, *batches.skipped])}"


def _listed(ways: Sequence[str]) -> str:
    """Several ways as one would say them.

    >>> _listed(["alone", "whole", "in micro-batches of 1", "in micro-batches of 2", "mixed"])
    'alone, whole, in micro-batches of 1 and of 2, and mixed'
    """
    parts: list[str] = []
    for way in ways:
        if way.startswith(_SIZES) and parts and parts[-1].startswith(_SIZES):
            parts[-1] += f" and of{way.removeprefix(_SIZES)}"
        else:
            parts.append(way)
    if len(parts) == 2:  # noqa: PLR2004 - two need no commas
        return " and ".join(parts)
    return ", ".join([*parts[:-1], f"and {parts[-1]}"])
