"""Payloads that may mean something else: columns, places of their rows, how many these are."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.blocks import block_of
from micro_batch_handler.pipeline.payloads.columns import columns_of
from micro_batch_handler.pipeline.payloads.constants import figures_of, is_constant
from micro_batch_handler.pipeline.payloads.frames import frame_columns
from micro_batch_handler.pipeline.payloads.operations import Payload, count

__all__ = ["figures", "holds_places", "is_ambiguous"]


def is_ambiguous(payload: Payload, rows: int) -> bool:
    """Whether a payload of so many rows may as well be columns of so many rows each.

    >>> is_ambiguous([[1, 2], [3, 4]], 2), is_ambiguous([[1, 2, 3], [4, 5, 6]], 2)
    (True, False)
    """
    if isinstance(payload, (list, deque)):
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
        dense = isinstance(payload, np.ndarray) or payload.layout == torch.strided
        whole = (
            payload.dtype.kind in "iu"
            if isinstance(payload, np.ndarray)
            else not (payload.is_floating_point() or payload.is_complex())
        )
        return bool(dense and whole and payload.ndim == 1) and _are_places(
            payload.tolist(), expected
        )
    if isinstance(payload, (list, deque)):
        return _are_places(payload, expected) or _rows_hold_places(payload, expected)
    if block_of(payload) is not None:
        return any(_are_places(values, expected) for values in frame_columns(payload))
    found = columns_of(payload) or {}
    return any(holds_places(column, rows, places) for column in found.values())


def figures(payload: Payload, where: str = "the payload") -> Iterator[tuple[str, float]]:
    """The numbers beside its rows that may tell how many these are, each with where it stands.

    >>> dict(figures({"x": [1, 2], "rows": 2, "of": {"task": "ner"}}))
    {"column 'rows'": 2, "column 'of'": 1, "column 'of'['task']": 3}
    """
    if block_of(payload) is not None:
        return
    if is_constant(payload):
        yield from figures_of(payload, where)
        return
    for key, column in (columns_of(payload) or {}).items():
        yield from figures(column, f"column {key!r}")


def _rows_hold_places(rows: Sequence[Any], places: list[int]) -> bool:
    columns: Any = [columns_of(row) for row in rows]
    if not columns or None in columns:
        return False
    shared = set(columns[0]).intersection(*columns[1:])
    return any(_are_places([each[key] for each in columns], places) for key in shared)


def _are_places(values: Sequence[Any], places: list[int]) -> bool:
    return all(type(value) is int for value in values) and sorted(values) == places
