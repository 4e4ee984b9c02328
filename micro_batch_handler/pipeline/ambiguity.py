"""Payloads that may be read in another way: as columns, or as the places of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.columns import columns_of
from micro_batch_handler.pipeline.payloads import Payload, count

__all__ = ["holds_places", "is_ambiguous"]


def is_ambiguous(payload: Payload, rows: int) -> bool:
    """Whether a payload of so many rows may as well be columns of so many rows each.

    >>> is_ambiguous([[1, 2], [3, 4]], 2), is_ambiguous([[1, 2, 3], [4, 5, 6]], 2)
    (True, False)
    """
    if isinstance(payload, list):
        return len(payload) == rows and all(count(item) == rows for item in payload)
    columns = columns_of(payload) or {}
    return any(is_ambiguous(column, rows) for column in columns.values())


def holds_places(payload: Payload, rows: int, places: Sequence[int] | None = None) -> bool:
    """Whether something in a payload of so many rows may be their places in the call.

    That is an integer for each row, or in each row, and together they are 0 to `rows` - 1, or what
    `places` says. Places mean nothing once rows of several calls are joined.

    >>> holds_places([{"at": 1, "name": "b"}, {"at": 0, "name": "a"}], 2), holds_places([5, 6], 2)
    (True, False)
    """
    expected = list(range(rows)) if places is None else list(places)
    if isinstance(payload, (torch.Tensor, np.ndarray)):
        whole = (
            not (payload.is_floating_point() or payload.is_complex())
            if isinstance(payload, torch.Tensor)
            else payload.dtype.kind in "iu"
        )
        return bool(whole) and payload.ndim == 1 and _are_places(payload.tolist(), expected)
    if isinstance(payload, list):
        columns: Any = [columns_of(item) for item in payload]
        if all(isinstance(item, int) for item in payload):
            return _are_places(payload, expected)
        if None in columns:
            return False
        shared = set(columns[0]).intersection(*columns[1:]) if columns else set()
        return any(_are_places([each[key] for each in columns], expected) for key in shared)
    found = columns_of(payload) or {}
    return any(holds_places(column, rows, places) for column in found.values())


def _are_places(values: list[Any], places: list[int]) -> bool:
    return all(type(value) is int for value in values) and sorted(values) == places
