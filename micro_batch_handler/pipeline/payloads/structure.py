"""How a payload is built: of a block of rows, of columns, and of the leaves that these hold.

block      a list, deque, array, tensor or frame: its rows stand one after the other
columns    a mapping, tuple or dataclass: each column is a payload of its own
leaf       what no container holds further: a tensor, a number, a text
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.blocks import ARRAY, DEQUE, LIST, Block, tensor_block
from micro_batch_handler.pipeline.payloads.frames import frame_block

__all__ = ["block_of", "change_leaves", "columns_of", "with_columns"]


def block_of(payload: Any) -> Block | None:
    """How this block of rows is cut and joined; None if the payload is no block.

    A kind that cannot be cut and joined without loss is no block, masked and record arrays for
    example.
    """
    if isinstance(payload, list):
        return LIST
    if isinstance(payload, torch.Tensor):
        return tensor_block(payload)
    if type(payload) is np.ndarray:
        return ARRAY if payload.ndim else None
    return DEQUE if type(payload) is deque else frame_block(payload)


def columns_of(payload: Any) -> dict[Any, Any] | None:
    """The columns by their keys, positions or names; None if the payload has no columns."""
    if isinstance(payload, Mapping):
        return dict(payload.items())
    if isinstance(payload, tuple):
        return dict(enumerate(payload))
    if not _is_record(payload):
        return None
    # An attribute that a stage has set on the instance is no field, but is cut like the fields.
    names = dict.fromkeys(
        [*(each.name for each in fields(payload)), *getattr(payload, "__dict__", ())]
    )
    return {name: getattr(payload, name) for name in names if hasattr(payload, name)}


def with_columns(payload: Any, columns: dict[Any, Any]) -> Any:
    """A payload of the same type with these columns.

    A tuple or mapping whose constructor does not take them becomes a plain tuple or dict.
    """
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
        return _new_record(payload, columns)
    try:
        made = kind(columns)  # a mapping subclass, a tokenizer's batch for example
        return made if list(made) == list(columns) else columns
    except Exception:
        return columns


def change_leaves(payload: Any, change: Callable[[Any], Any]) -> Any:
    """The payload with `change` applied to its leaves; the same object if none of them changes.

    A container stays as it is if it cannot be rebuilt in its own type. So does a list that begins
    with a number or a text, which is assumed to hold nothing else, and a payload that is nested too
    deeply.
    """
    try:
        return _change(payload, change)
    except RecursionError:
        return payload  # it may contain itself


def _change(payload: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(payload, list) or type(payload) is deque:
        return _change_rows(payload, change)
    before = columns_of(payload)
    if before is None:
        return change(payload)
    after = {key: _change(column, change) for key, column in before.items()}
    return _refilled(payload, after) if _differ(after.values(), before.values()) else payload


def _change_rows(payload: Any, change: Callable[[Any], Any]) -> Any:
    if payload and isinstance(payload[0], (int, float, str, bytes)):
        return payload
    rows = [_change(row, change) for row in payload]
    if not _differ(rows, payload):
        return payload
    return rows if isinstance(payload, list) else deque(rows, payload.maxlen)


def _differ(changed: Iterable[Any], before: Iterable[Any]) -> bool:
    return any(new is not old for new, old in zip(changed, before, strict=True))


def _refilled(payload: Any, columns: dict[Any, Any]) -> Any:
    """The same with these columns; a mapping keeps its attributes."""
    if isinstance(payload, tuple):
        make = getattr(type(payload), "_make", tuple if type(payload) is tuple else None)
        return payload if make is None else make(columns.values())
    if not isinstance(payload, Mapping):
        return _new_record(payload, columns)
    try:
        filled: Any = copy.copy(payload)
        for key, column in columns.items():
            filled[key] = column
    except Exception:
        return payload
    return filled


def _is_record(payload: Any) -> bool:
    """Whether this is an instance of a dataclass that can be made without its constructor."""
    kind = type(payload)
    return is_dataclass(kind) and kind.__new__ is object.__new__


def _new_record(record: Any, columns: dict[str, Any]) -> Any:
    """A dataclass's instance with these columns; neither constructor nor `__post_init__` runs."""
    filled = object.__new__(type(record))
    for name, column in columns.items():
        object.__setattr__(filled, name, column)
    return filled
