"""Constants: what stands beside the rows of a payload and is no row itself.

A number, a text, an enum, a set, a type, a tensor or array without a dimension, None; and mappings,
tuples and dataclasses that hold nothing else. A list is never one: its items are rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.columns import columns_of, like

__all__ = ["carried", "figures_of", "is_constant", "named", "same_constant"]

SIZED = (str, bytes, set, frozenset)

KINDS = (
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

MOST_ITEMS = 64
"""Of a collection. A larger one would be looked through at each cut and join."""

MOST = 10**15
"""Beyond, a number is no number of rows."""


def is_constant(payload: Any) -> bool:
    """Whether nothing in it is a row."""
    if isinstance(payload, (set, frozenset)):
        return len(payload) <= MOST_ITEMS
    if isinstance(payload, KINDS) or _is_scalar(payload):
        return True
    columns = columns_of(payload)
    return (
        columns is not None
        and len(columns) <= MOST_ITEMS
        and all(map(is_constant, columns.values()))
    )


def carried(constant: Any) -> Any:
    """What each part gets: of its own, since a stage may change it."""
    if isinstance(constant, torch.Tensor):
        return constant.clone()
    if type(constant) in (set, np.ndarray):
        return constant.copy()
    if isinstance(constant, KINDS):
        return constant
    columns = columns_of(constant) or {}
    return like(constant, {key: carried(column) for key, column in columns.items()})


def named(payload: Any, where: str = "the payload") -> Iterator[tuple[str, Any]]:
    """The constants in a payload that may name some of its rows, each with where it stands.

    All but fractions (a loss, say), None, and what stands for itself (an enum, a type).
    """
    if isinstance(payload, (*SIZED, int, np.integer)) and not isinstance(payload, Enum):
        yield where, payload
    elif _is_scalar(payload):
        fraction = (
            payload.is_floating_point() or payload.is_complex() or payload.device.type != "cpu"
            if isinstance(payload, torch.Tensor)
            else payload.dtype.kind not in "iu"
        )
        if not fraction:
            yield where, payload
    elif not isinstance(payload, KINDS) and (columns := columns_of(payload)) is not None:
        if is_constant(payload):
            yield where, payload
            return
        for key, column in columns.items():
            yield from named(column, f"column {key!r}")


def same_constant(one: Any, other: Any) -> bool:
    """Whether two constants are of one type and equal; never raises.

    Values in the memory of a device are not compared, which would wait for the device: there, only
    one and the same tensor is the same.
    """
    try:
        return one is other or (type(one) is type(other) and _are_equal(one, other))
    except Exception:
        return False


def figures_of(constant: Any, where: str) -> Iterator[tuple[str, float]]:
    """The numbers in it that may tell how many rows its call had, each with where it stands.

    Lengths count, too: a set, a text or a tuple may have an item for each row.
    """
    if isinstance(constant, SIZED):
        yield where, len(constant)
    elif isinstance(constant, (torch.Tensor, np.ndarray, np.generic)):
        value = constant.item()
        if not isinstance(value, np.generic):  # of which Python has no own kind
            yield from figures_of(value, where)
    elif type(constant) in (int, float):
        if 0 < abs(constant) < MOST:
            yield where, constant
    elif (columns := columns_of(constant)) is not None:
        yield where, len(columns)
        for key, column in columns.items():
            yield from figures_of(column, f"{where}[{key!r}]")


def _is_scalar(payload: Any) -> bool:
    if isinstance(payload, torch.Tensor):
        return payload.ndim == 0 and payload.layout == torch.strided and not payload.is_quantized
    return type(payload) is np.ndarray and payload.ndim == 0 and payload.dtype != object


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        here = one.device.type == other.device.type == "cpu"
        return here and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(one.dtype == other.dtype and one == other)
    columns, others = columns_of(one), columns_of(other)
    if columns is None or others is None:
        return bool(one == other)
    return columns.keys() == others.keys() and all(
        same_constant(column, others[key]) for key, column in columns.items()
    )
