"""Changing what a payload holds, and nothing else about it."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from micro_batch_handler.pipeline.payloads.columns import columns_of, filled_record, is_record

__all__ = ["change_leaves"]


def change_leaves(payload: Any, change: Callable[[Any], Any]) -> Any:
    """The payload with `change` applied to what its lists, tuples, mappings and dataclasses hold.

    The payload itself where nothing changes, and where a container of its own kind cannot be
    filled anew, or is nested too deeply. A list that begins with a number or a text is taken for a
    list of those.
    """
    try:
        return _change(payload, change)
    except RecursionError:
        return payload  # it holds itself, perhaps


def _change(payload: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(payload, list) or type(payload) is deque:
        return _change_rows(payload, change)
    if isinstance(payload, tuple):
        columns = [_change(column, change) for column in payload]
        make = getattr(type(payload), "_make", None)
        known = make is not None or type(payload) is tuple
        changed = known and _differ(columns, payload)
        return (make or tuple)(columns) if changed else payload
    if isinstance(payload, Mapping):
        changes = {key: _change(column, change) for key, column in payload.items()}
        return (
            _refilled(payload, changes) if _differ(changes.values(), payload.values()) else payload
        )
    if is_record(payload):
        before = columns_of(payload) or {}
        after = {name: _change(column, change) for name, column in before.items()}
        changed = _differ(after.values(), before.values())
        return filled_record(payload, after) if changed else payload
    return change(payload)


def _change_rows(payload: Any, change: Callable[[Any], Any]) -> Any:
    if payload and isinstance(payload[0], (int, float, str, bytes)):
        return payload
    rows = [_change(row, change) for row in payload]
    if not _differ(rows, payload):
        return payload
    return rows if isinstance(payload, list) else deque(rows, payload.maxlen)


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
