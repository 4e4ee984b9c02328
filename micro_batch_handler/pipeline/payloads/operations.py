"""Counting, cutting and joining payloads: pure functions over what stages return.

A payload carries k rows. What counts as k rows:

    list, deque                       its items
    torch.Tensor, ndarray             their first dimension; sparse tensors (COO, CSR) too
    pandas' DataFrame, Series         their rows, by position
    mapping, tuple, dataclass         columns, each a payload of k rows or a constant
    anything else                     opaque: it may pass from stage to stage, but cannot be cut or
                                      joined

A constant is a value that is no row: a number, a text, None, a loss; see constants.py. It must
stand beside rows. Cutting gives each part a copy of it; joining requires that it is the same in all
payloads. Payloads whose constants differ are called apart, see grouping.py. Only fractions may
differ from call to call, since any other constant may name rows of its call, see readings.py.

A tuple is columns, not rows, because preprocess steps return `(input_ids, attention_mask)`. A list
is rows, never a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from micro_batch_handler.pipeline.payloads.blocks import Uncuttable
from micro_batch_handler.pipeline.payloads.constants import (
    copy_of_constant,
    difference,
    is_constant,
    same_constant,
)
from micro_batch_handler.pipeline.payloads.structure import (
    block_of,
    change_leaves,
    columns_of,
    with_columns,
)

__all__ = [
    "CUT_AND_JOIN",
    "Payload",
    "PayloadOps",
    "Uncuttable",
    "count",
    "cut",
    "join",
    "own",
    "pad",
    "rows_of",
]

Payload = Any


def count(payload: Payload) -> int | None:
    """The number of rows; None if the payload is opaque or its columns differ in rows."""
    try:
        return rows_of(payload)
    except Uncuttable:
        return None


def rows_of(payload: Payload) -> int:
    """The number of rows; unlike `count`, says why it cannot be told.

    Raises:
        Uncuttable: some part of the payload is not made of rows.
    """
    try:
        return _rows_of(payload, "the payload")
    except RecursionError:
        raise Uncuttable("the payload is nested too deeply") from None


def cut(payload: Payload, start: int, stop: int) -> Payload:
    """The rows from `start` up to `stop`; dense tensors and arrays are views, not copies.

    Raises:
        Uncuttable: some part of the payload is not made of rows.
    """
    rows_of(payload)
    return _cut(payload, start, stop)


def join(payloads: Sequence[Payload]) -> Payload:
    """One payload with the rows of all, in order; the inverse of cutting.

    Raises:
        Uncuttable: the payloads are not made of rows, or differ in type, keys, shape, dtype or
            constants.
    """
    for payload in payloads:
        rows_of(payload)
    return _join(payloads, "the payload")


def _rows_of(payload: Payload, where: str) -> int:
    if block_of(payload) is not None:
        return len(payload)
    columns = columns_of(payload)
    if columns is None:
        raise Uncuttable(f"{where} is {_type(payload)}, which is not made of rows")
    lengths = {
        key: _rows_of(column, f"column {key!r}")
        for key, column in columns.items()
        if block_of(column) or not is_constant(column)
    }
    if not lengths:
        raise Uncuttable(f"{where} is {_type(payload)} without columns of rows")
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{key!r} has {rows}" for key, rows in lengths.items())
        raise Uncuttable(f"the columns of {where} differ in rows: {text}")
    return next(iter(lengths.values()))


def _cut(payload: Payload, start: int, stop: int) -> Payload:
    block = block_of(payload)
    if block is not None:
        return block.cut(payload, start, stop)
    if is_constant(payload):
        return copy_of_constant(payload)
    columns = columns_of(payload) or {}
    return with_columns(
        payload, {key: _cut(column, start, stop) for key, column in columns.items()}
    )


def _join(payloads: Sequence[Payload], where: str) -> Payload:
    first = payloads[0]
    if any(type(payload) is not type(first) for payload in payloads):
        found = ", ".join(sorted({_type(payload) for payload in payloads}))
        raise Uncuttable(f"{where} has several types: {found}")
    block = block_of(first)
    if block is not None:
        return block.join(payloads, where)
    if is_constant(first):
        if not all(same_constant(first, payload) for payload in payloads):
            raise Uncuttable(f"{where} is no row, and not the same in all micro-batches")
        return copy_of_constant(first)
    columns = [columns_of(payload) or {} for payload in payloads]
    if any(c.keys() != columns[0].keys() for c in columns):
        raise Uncuttable(f"{where} has different columns in different micro-batches")
    return with_columns(
        first, {key: _join([c[key] for c in columns], f"column {key!r}") for key in columns[0]}
    )


def _type(payload: Payload) -> str:
    return f"{type(payload).__module__}.{type(payload).__qualname__}".removeprefix("builtins.")


@dataclass(frozen=True)
class PayloadOps:
    """How the pipeline handles payloads; hooks of the user's handler replace some of it."""

    count: Callable[[Payload], int | None]
    rows_of: Callable[[Payload], int | None]
    cut: Callable[[Payload, int, int], Payload]
    join: Callable[[Sequence[Payload]], Payload]
    difference: Callable[[Payload, Payload], str] | None = None
    """Where two payloads hold different constants; None if only `join` can tell."""
    group_by: Callable[[Payload], Sequence[Hashable] | None] | None = None
    """A key for each row of what preprocess returned, see grouping.py; None if there is no hook."""


def pad(payload: Payload, rows: int, size: int, ops: PayloadOps) -> Payload:
    """A payload of `rows` rows, filled up to `size` rows with copies of its last one.

    The model accepts a copy of a real row; it might reject zeros.

    Raises:
        Uncuttable: see `cut` and `join`.
    """
    last = ops.cut(payload, rows - 1, rows)
    return ops.join([payload] + [last] * (size - rows))


def own(payload: Payload) -> Payload:
    """The payload with copies of its tensors, whose memory nobody else writes to."""
    return change_leaves(
        payload, lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
    )


CUT_AND_JOIN = PayloadOps(count, rows_of, cut, join, difference)
