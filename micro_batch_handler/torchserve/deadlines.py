"""Deadlines of requests, from a header by which clients say how long they wait."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from ts.context import Context

__all__ = ["deadlines_s"]


def deadlines_s(
    context: Context, requests: int, header: str | None, now_s: float
) -> list[float | None] | None:
    """When each request's deadline passes, on the clock of `now_s`; None if no request has one.

    A header that is no number is ignored: a deadline is a hint, and a request needs none.

    Args:
        context: of the batch.
        requests: how many there are.
        header: the name of the header, whose value is in milliseconds; None to have no deadlines.
        now_s: the time at which the milliseconds begin.
    """
    processors = context.request_processor
    if header is None or processors is None:
        return None
    found = [
        _deadline_s(processors[index].get_request_properties(), header, now_s)
        for index in range(requests)
    ]
    return found if any(deadline is not None for deadline in found) else None


def _deadline_s(headers: dict[str, Any], header: str, now_s: float) -> float | None:
    text = _header(headers, header)
    if text is None:
        return None
    try:
        left_ms = float(text)
    except (TypeError, ValueError):
        return None
    return now_s + left_ms / 1000 if math.isfinite(left_ms) else None


def _header(headers: dict[str, Any], name: str) -> Any:
    """A header by its name, which clients may write in upper or lower case."""
    if name in headers:
        return headers[name]
    spelling = _spelling(tuple(headers), name)
    return None if spelling is None else headers[spelling]


@lru_cache(maxsize=256)
def _spelling(names: tuple[str, ...], wanted: str) -> str | None:
    """The name as `names` spells it. Cached: clients send the same headers again and again."""
    wanted = wanted.lower()
    return next((name for name in names if name.lower() == wanted), None)
