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

    The header says how many milliseconds there are from `now_s` on. If it is no number, it is
    ignored: a deadline is a hint, and a request needs none.
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
    name = header if header in headers else _spelling(tuple(headers), header.lower())
    text = headers.get(name)
    if text is None:
        return None
    try:
        left_ms = float(text)
    except (TypeError, ValueError):
        return None
    return now_s + left_ms / 1000 if math.isfinite(left_ms) else None


# Cached, since clients send the same headers again and again.
@lru_cache(maxsize=256)
def _spelling(names: tuple[str, ...], wanted: str) -> str:
    """A header's name as a client spells it, in upper or lower case; empty if it is not there."""
    return next((name for name in names if name.lower() == wanted), "")
