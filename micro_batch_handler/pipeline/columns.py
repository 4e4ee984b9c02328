"""What holds columns, each a payload of its own: mappings and tuples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["columns_of", "like"]


def columns_of(payload: Any) -> dict[Any, Any] | None:
    """The columns by their keys, places or names; None for what holds none."""
    if isinstance(payload, Mapping):
        return dict(payload.items())
    if isinstance(payload, tuple):
        return dict(enumerate(payload))
    return None


def like(payload: Any, columns: dict[Any, Any]) -> Any:
    """The columns in the payload's own type where its constructor allows, else a dict or tuple."""
    kind = type(payload)
    if isinstance(payload, tuple):
        make = getattr(kind, "_make", kind)  # a named tuple takes its fields one by one
        try:
            return make(columns.values())
        except Exception:
            return tuple(columns.values())
    if kind is dict:
        return columns
    try:
        made = kind(columns)  # a mapping subclass, a tokenizer's batch
        return made if list(made) == list(columns) else columns
    except Exception:
        return columns
