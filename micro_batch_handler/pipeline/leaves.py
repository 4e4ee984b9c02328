"""Changing what a payload holds, and nothing else about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["change_leaves"]


def change_leaves(payload: Any, change: Callable[[Any], Any]) -> Any:
    """The payload with `change` applied to what its lists, tuples and mappings hold.

    The payload itself where nothing changes, and where a container of its own kind cannot be
    filled anew. A list that begins with a number or a text is taken for a list of those.
    """
    if isinstance(payload, list):
        if payload and isinstance(payload[0], (int, float, str, bytes)):
            return payload
        rows = [change_leaves(row, change) for row in payload]
        return rows if _differ(rows, payload) else payload
    if isinstance(payload, tuple):
        columns = [change_leaves(column, change) for column in payload]
        make = getattr(type(payload), "_make", None)
        known = make is not None or type(payload) is tuple
        changed = known and _differ(columns, payload)
        return (make or tuple)(columns) if changed else payload
    if isinstance(payload, Mapping):
        changes = {key: change_leaves(column, change) for key, column in payload.items()}
        return (
            _refilled(payload, changes) if _differ(changes.values(), payload.values()) else payload
        )
    return change(payload)


def _differ(changed: Iterable[Any], before: Iterable[Any]) -> bool:
    return any(new is not old for new, old in zip(changed, before, strict=True))


def _refilled(payload: Any, changes: dict[Any, Any]) -> Any:
    """A copy of the mapping, with its attributes and other values."""
    try:
        filled = copy.copy(payload)
        for key, value in changes.items():
            filled[key] = value
    except Exception:
        return payload
    return filled
