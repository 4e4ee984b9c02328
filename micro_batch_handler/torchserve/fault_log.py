"""Failures in the worker's log: the first of a kind in full, those that follow counted.

    its text says all               one line with the status and the message that the client gets
      a body that is not JSON, a deadline, a time-out, a wrong number of rows, and a
      PredictionException of the handler with a status below 500
    any other failure               the traceback, which clients do not see

Failures are of one kind if the same line raised them. Those that follow the last one of their kind
within ten seconds are counted, and a line every ten seconds says how many they are.
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
from micro_batch_handler.torchserve.faults import SERVER_ERROR, status_of
from micro_batch_handler.torchserve.metrics.reasons import reason_of

__all__ = ["FaultLog"]

logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""Seconds between lines about one kind. After so long without one, the next is logged in full."""

MOST_KINDS = 100
"""Kinds that are remembered: a handler may raise in many places, or in generated code."""

LONGEST_TEXT = 300
"""Characters of an exception's text that are logged: it may hold all that a client sent."""

Kind: TypeAlias = "tuple[str, str, type, object]"


@dataclass
class _Logged:
    """When failures of one kind were logged, and how many were not yet."""

    level: int
    logged_s: float
    last_s: float
    count: int = 0
    """Requests that failed since `logged_s`."""

    latest: str = ""


class FaultLog:
    """Logs failures; for the thread that answers batches."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kinds: dict[Kind, _Logged] = {}

    def retried(self, outcomes: Outcomes, context: Context) -> None:
        """Log failed calls whose requests were all answered in the end; called for every batch."""
        for failure in outcomes.retried:
            if not any(index in outcomes.failures for index in failure.indices):
                what = f"{failure.stage} failed once, and then answered, for"
                self._log(logging.WARNING, what, failure, context)
        self._log_counts(self._now_s())

    def failed(self, failures: Iterable[Failure], context: Context) -> None:
        """Log requests that are answered with an error."""
        for failure in dict.fromkeys(failures):
            if _is_plain(failure):
                what = f"answered {status_of(failure)[0]} to"
                self._log(logging.WARNING, what, failure, context)
            else:
                self._log(logging.ERROR, f"{failure.stage} failed for", failure, context)

    def close(self) -> None:
        """Log what was only counted yet."""
        self._log_counts(float("inf"))

    def _log(self, level: int, what: str, failure: Failure, context: Context) -> None:
        error = failure.error
        ids = ", ".join(str(context.get_request_id(index)) for index in failure.indices)
        now_s = self._now_s()
        kind = (what, failure.stage, type(error), _place(error.__traceback__))
        self._log_counts(now_s)
        seen = self._kinds.get(kind)
        if seen is not None:
            seen.last_s = now_s
            seen.count += len(failure.indices)
            seen.latest = f"{ids}: {_text(failure)}"
        else:
            if len(self._kinds) >= MOST_KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = _Logged(level, now_s, now_s)
            text = f": {_text(failure)}" if _is_plain(failure) else f"\n{_story(error)}"
            logger.log(level, "%s requests %s%s", what, ids, text)
        # What the failed call held is freed now, not by the garbage collector.
        traceback.clear_frames(error.__traceback__)

    def _log_counts(self, now_s: float) -> None:
        for kind, seen in [*self._kinds.items()]:
            if seen.count and now_s - seen.logged_s >= EVERY_S:
                text = "%s %d more like that, the latest %s"
                logger.log(seen.level, text, kind[0], seen.count, seen.latest)
                seen.logged_s, seen.count = now_s, 0
            if now_s - seen.last_s >= EVERY_S:
                del self._kinds[kind]


def _is_plain(failure: Failure) -> bool:
    """Whether the error needs no traceback: its text explains it."""
    error = failure.error
    if reason_of(error) == "refused":
        return status_of(failure)[0] < SERVER_ERROR
    return isinstance(error, StageError) and error.__cause__ is None


def _place(trace: TracebackType | None) -> object:
    """The code and line that raised an error; None if it was never raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace and (trace.tb_frame.f_code, trace.tb_lineno)


def _text(failure: Failure) -> str:
    """A failure in one line, safe to log."""
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
    # Indented, because TorchServe takes a line that starts with [METRICS] for a metric, and an
    # exception's text may hold what a client sent.
    return _safe("\n".join(f"  {line}" for line in "".join(lines).splitlines()))


def _safe(text: str) -> str:
    """The text with lone surrogates escaped, which could not be written."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
