"""What went wrong, in the worker's log: the first of a kind in full, those that follow counted.

    told by its text alone          one line with the status and the message that the client gets
      a body that is not JSON, a deadline, a time-out, a wrong number of rows, and what a handler
      refuses by a PredictionException with a status below 500
    any other failure               the traceback, which the clients do not see

Failures are of one kind if they were raised in the same line. While more of a kind come, each less
than ten seconds after the one before, they are counted, and a line every ten seconds says how many.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeAlias

from ts.context import Context

from micro_batch_handler.errors import StageError
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.torchserve.faults import SERVER_ERROR, reason_of, status_of

__all__ = ["FaultLog"]

logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""Between two lines about one kind; one that did not come for so long is told in full again."""

MOST_KINDS = 100
"""Kinds that are remembered: a handler may raise in many places, or in code that it makes."""

LONGEST_TEXT = 300
"""Characters of an exception's text, which may hold all that a client sent."""

Kind: TypeAlias = "tuple[str, str, type, object]"


@dataclass
class _Told:
    """What was told of a kind, and what was not yet."""

    level: int
    told_s: float
    last_s: float
    count: int = 0
    """Requests that failed since it was told."""

    latest: str = ""


class FaultLog:
    """Writes about failures; for the thread that answers batches.

    Args:
        now_s: seconds since some moment.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kinds: dict[Kind, _Told] = {}

    def retried(self, outcomes: Outcomes, context: Context) -> None:
        """Tell of failed calls whose requests were all answered in the end; for every batch."""
        for failure in outcomes.retried:
            if not any(index in outcomes.failures for index in failure.indices):
                what = f"{failure.stage} failed once, and then answered, for"
                self._tell(logging.WARNING, what, failure, context)
        self._remind(self._now_s())

    def failed(self, failures: Iterable[Failure], context: Context) -> None:
        """Tell of requests that are answered with an error."""
        for failure in dict.fromkeys(failures):
            if _is_plain(failure):
                what = f"answered {status_of(failure)[0]} to"
                self._tell(logging.WARNING, what, failure, context)
            else:
                self._tell(logging.ERROR, f"{failure.stage} failed for", failure, context)

    def close(self) -> None:
        """Tell what was counted and not told yet."""
        self._remind(float("inf"))

    def _tell(self, level: int, what: str, failure: Failure, context: Context) -> None:
        error = failure.error
        ids = ", ".join(str(context.get_request_id(index)) for index in failure.indices)
        now_s = self._now_s()
        kind = (what, failure.stage, type(error), _place(error.__traceback__))
        self._remind(now_s)
        told = self._kinds.get(kind)
        if told is not None:
            told.last_s = now_s
            told.count += len(failure.indices)
            told.latest = f"{ids}: {_text(failure)}"
        else:
            if len(self._kinds) >= MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = _Told(level, now_s, now_s)
            if _is_plain(failure):
                logger.log(level, "%s requests %s: %s", what, ids, _text(failure))
            else:
                logger.log(level, "%s requests %s\n%s", what, ids, _story(error))
        # What the failed call held need not wait for the garbage collector.
        traceback.clear_frames(error.__traceback__)

    def _remind(self, now_s: float) -> None:
        for kind, told in [*self._kinds.items()]:
            if told.count and now_s - told.told_s >= EVERY_S:
                text = "%s %d more like that, the latest %s"
                logger.log(told.level, text, kind[0], told.count, told.latest)
                told.told_s, told.count = now_s, 0
            if now_s - told.last_s >= EVERY_S:
                del self._kinds[kind]


def _is_plain(failure: Failure) -> bool:
    """Whether what the client is told, or the error's text, says all that there is to say."""
    error = failure.error
    if reason_of(error) == "refused":
        return status_of(failure)[0] < SERVER_ERROR
    return isinstance(error, StageError) and error.__cause__ is None


def _place(trace: TracebackType | None) -> object:
    """Where an error was raised; None where nobody knows."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace and (trace.tb_frame.f_code, trace.tb_lineno)


def _text(failure: Failure) -> str:
    """One line on a failure, safe to log."""
    try:
        text = str(failure.error)
    except BaseException:
        text = "no readable text"
    if not _is_plain(failure):
        text = f"{type(failure.error).__name__}: {text}"
    return _safe(" ".join(text[: LONGEST_TEXT * 2].split())[:LONGEST_TEXT])


def _story(error: BaseException) -> str:
    """The error with its traceback, safe to log."""
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except Exception:  # the traceback module trusts some attributes of some exceptions
        lines = [f"{type(error).__name__}, which cannot be shown"]
    # Indented, because TorchServe reads a line that starts with [METRICS] as a metric, and an
    # exception's text may hold what a client sent.
    return _safe("\n".join(f"  {line}" for line in "".join(lines).splitlines()))


def _safe(text: str) -> str:
    """A lone surrogate could not be written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
