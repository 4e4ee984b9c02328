"""Constants: values that stand beside the rows of a payload and are no rows themselves.

A number, a text, an enum, a set, a type, a tensor or array without a dimension, None; and mappings,
tuples and dataclasses that hold nothing else. A list is never a constant: its items are rows.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.structure import block_of, columns_of, with_columns

__all__ = [
    "PLAIN",
    "SIZED",
    "copy_of_constant",
    "difference",
    "is_constant",
    "is_scalar",
    "same_constant",
]

SIZED = (str, bytes, set, frozenset)
"""Constants with a length."""

PLAIN = (
    *SIZED,
    type(None),
    int,
    float,
    complex,
    np.generic,
    Enum,
    type,
    np.dtype,
    torch.dtype,
    torch.device,
)
"""Types of constants that hold no columns."""

MOST_ITEMS = 64
"""The longest collection that is a constant; longer ones would slow down each cut and join."""


def is_constant(payload: Any) -> bool:
    """Whether nothing in it is a row."""
    if isinstance(payload, (set, frozenset)):
        return len(payload) <= MOST_ITEMS
    if isinstance(payload, PLAIN) or is_scalar(payload):
        return True
    columns = columns_of(payload)
    return (
        columns is not None
        and len(columns) <= MOST_ITEMS
        and all(map(is_constant, columns.values()))
    )


def is_scalar(payload: Any) -> bool:
    """Whether this is a tensor or array without a dimension."""
    if isinstance(payload, torch.Tensor):
        return payload.ndim == 0 and payload.layout == torch.strided and not payload.is_quantized
    return type(payload) is np.ndarray and payload.ndim == 0 and payload.dtype != object


def copy_of_constant(constant: Any) -> Any:
    """The constant for one more part of a payload, which a stage may change for that part alone."""
    if isinstance(constant, torch.Tensor):
        return constant.clone()
    if type(constant) in (set, np.ndarray):
        return constant.copy()
    if isinstance(constant, PLAIN):
        return constant
    columns = columns_of(constant) or {}
    return with_columns(constant, {key: copy_of_constant(each) for key, each in columns.items()})


def same_constant(one: Any, other: Any) -> bool:
    """Whether two constants are of one type and equal; never raises.

    Tensors in a device's memory count as the same only if they are one object. Comparing their
    values would wait for the device.
    """
    try:
        return one is other or (type(one) is type(other) and _are_equal(one, other))
    except Exception:
        return False


def difference(one: Any, other: Any, where: str = "the payload") -> str:
    """Where two payloads first hold different constants and so cannot be joined; "" if nowhere.

    >>> difference({"x": [1], "task": "a"}, {"x": [2], "task": "b"})
    "column 'task'"
    """
    try:
        return _difference(one, other, where)
    except RecursionError:
        return ""


def _difference(one: Any, other: Any, where: str) -> str:
    if one is other or (block_of(one) and block_of(other)):
        return ""
    if is_constant(one) or is_constant(other):
        return "" if same_constant(one, other) else where
    columns, others = columns_of(one) or {}, columns_of(other) or {}
    found = (
        _difference(column, others[key], f"column {key!r}")
        for key, column in columns.items()
        if key in others
    )
    return next(filter(None, found), "")


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        on_host = one.device.type == other.device.type == "cpu"
        return on_host and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one == other)
    columns, others = columns_of(one), columns_of(other)
    if columns is None or others is None:
        return bool(one == other)
    return columns.keys() == others.keys() and all(
        same_constant(column, others[key]) for key, column in columns.items()
    )
