"""Signs in one payload that it may not be rows, or may hold values that name rows of its call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.constants import PLAIN, SIZED, is_constant, is_scalar
from micro_batch_handler.pipeline.payloads.frames import frame_columns
from micro_batch_handler.pipeline.payloads.operations import Payload, count
from micro_batch_handler.pipeline.payloads.structure import block_of, columns_of

__all__ = ["constants_of", "holds_places", "is_ambiguous", "may_name_rows", "numbers_beside_rows"]

MOST_ROWS = 10**15
"""A larger number cannot be a number of rows."""


def is_ambiguous(payload: Payload, rows: int) -> bool:
    """Whether a payload of so many rows may as well be so many columns of as many rows.

    >>> is_ambiguous([[1, 2], [3, 4]], 2), is_ambiguous([[1, 2, 3], [4, 5, 6]], 2)
    (True, False)
    """
    if isinstance(payload, (list, deque)):
        return len(payload) == rows and all(count(item) == rows for item in payload)
    columns = columns_of(payload) or {}
    return any(is_ambiguous(column, rows) for column in columns.values())


def holds_places(payload: Payload, rows: int, places: Sequence[int] | None = None) -> bool:
    """Whether a payload of so many rows may hold their places in the call.

    Places are an integer for each row, or in each row, and together they are 0 to `rows` - 1 in any
    order, or `places`. They mean nothing once rows of several calls are joined.

    >>> holds_places([{"at": 1, "name": "b"}, {"at": 0, "name": "a"}], 2), holds_places([5, 6], 2)
    (True, False)
    """
    expected = list(range(rows)) if places is None else list(places)
    if isinstance(payload, (torch.Tensor, np.ndarray)):
        dense = isinstance(payload, np.ndarray) or payload.layout == torch.strided
        counts = dense and payload.ndim == 1 and _holds_integers(payload)
        return counts and _are_places(payload.tolist(), expected)
    if isinstance(payload, (list, deque)):
        return _are_places(payload, expected) or _rows_hold_places(payload, expected)
    if block_of(payload) is not None:
        return any(_are_places(values, expected) for values in frame_columns(payload))
    found = columns_of(payload) or {}
    return any(holds_places(column, rows, places) for column in found.values())


def constants_of(payload: Payload, where: str = "the payload") -> Iterator[tuple[str, Any]]:
    """(where it stands, constant) for each constant beside the rows."""
    if block_of(payload) is not None:
        return
    if is_constant(payload) or isinstance(payload, SIZED):
        yield where, payload
        return
    for key, column in (columns_of(payload) or {}).items():
        yield from constants_of(column, f"column {key!r}")


def may_name_rows(constant: Any) -> bool:
    """Whether a constant may name some of the rows, as a set with the places of bad rows does.

    Fractions (a loss, say), None, enums and types name none. A tensor on a device counts as a
    fraction, since reading it would wait for the device.
    """
    if is_scalar(constant):
        on_device = isinstance(constant, torch.Tensor) and constant.device.type != "cpu"
        return not on_device and _holds_integers(constant)
    if isinstance(constant, PLAIN):
        return isinstance(constant, (*SIZED, int, np.integer)) and not isinstance(constant, Enum)
    return True  # it has columns


def numbers_beside_rows(payload: Payload) -> Iterator[tuple[str, float]]:
    """(where it stands, number) for each number and each length beside the rows.

    It may say how many rows there are: a set, a text or a tuple may have an item for each row.

    >>> dict(numbers_beside_rows({"x": [1, 2], "rows": 2, "of": {"task": "ner"}}))
    {"column 'rows'": 2, "column 'of'": 1, "column 'of'['task']": 3}
    """
    for where, constant in constants_of(payload):
        yield from _numbers_in(constant, where)


def _holds_integers(values: torch.Tensor | np.ndarray[Any, Any]) -> bool:
    """Whether no value is a fraction. Booleans count as integers in tensors, but not in arrays."""
    if isinstance(values, torch.Tensor):
        return not (values.is_floating_point() or values.is_complex())
    return values.dtype.kind in "iu"


def _numbers_in(constant: Any, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(constant, SIZED):
        yield where, len(constant)
    elif isinstance(constant, (torch.Tensor, np.ndarray, np.generic)):
        value = constant.item()
        if not isinstance(value, np.generic):  # a type that Python has no counterpart of
            yield from _numbers_in(value, where)
    elif type(constant) in (int, float):
        if 0 < abs(constant) < MOST_ROWS:
            yield where, constant
    elif (columns := columns_of(constant)) is not None:
        yield where, len(columns)
        for key, column in columns.items():
            yield from _numbers_in(column, f"{where}[{key!r}]")


def _rows_hold_places(rows: Sequence[Any], places: list[int]) -> bool:
    columns: Any = [columns_of(row) for row in rows]
    if not columns or None in columns:
        return False
    shared = set(columns[0]).intersection(*columns[1:])
    return any(_are_places([each[key] for each in columns], places) for key in shared)


def _are_places(values: Sequence[Any], places: list[int]) -> bool:
    return all(type(value) is int for value in values) and sorted(values) == places
