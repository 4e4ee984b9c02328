"""What holds columns, each a payload of its own: mappings, tuples and dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["columns_of", "filled_record", "is_record", "like"]


def columns_of(payload: Any) -> dict[Any, Any] | None:
    """The columns by their keys, places or names; None for what holds none."""
    if isinstance(payload, Mapping):
        return dict(payload.items())
    if isinstance(payload, tuple):
        return dict(enumerate(payload))
    if not is_record(payload):
        return None
    # What a stage has set on it is no field, but goes along with the others.
    names = dict.fromkeys(
        [*(each.name for each in fields(payload)), *getattr(payload, "__dict__", ())]
    )
    return {name: getattr(payload, name) for name in names if hasattr(payload, name)}


def is_record(payload: Any) -> bool:
    """Whether this is an instance of a dataclass that can be made without its constructor."""
    kind = type(payload)
    return is_dataclass(kind) and kind.__new__ is object.__new__


def filled_record(record: Any, columns: dict[str, Any]) -> Any:
    """A dataclass's instance with these columns, frozen or not, without its `__post_init__`."""
    filled = object.__new__(type(record))
    for name, column in columns.items():
        object.__setattr__(filled, name, column)
    return filled


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
    if not isinstance(payload, Mapping):
        return filled_record(payload, columns)
    try:
        made = kind(columns)  # a mapping subclass, a tokenizer's batch
        return made if list(made) == list(columns) else columns
    except Exception:
        return columns
