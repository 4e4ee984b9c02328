"""Cutting and joining payloads: pure functions over what stages return.

A payload carries k rows. What counts as k rows:

    list                      its items
    torch.Tensor, ndarray     their first dimension
    mapping, tuple            columns, each a payload of k rows (None stays None)
    anything else             opaque: it may pass from stage to stage, but not be cut or joined

A tuple is columns, not rows, because that is how preprocess steps return
`(input_ids, attention_mask)`. A constant beside the columns (a string, a number) is refused, not
copied: joined, it could silently replace the values of other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.leaves import change_leaves

__all__ = [
    "CUT_AND_JOIN",
    "Payload",
    "PayloadOps",
    "Uncuttable",
    "count",
    "cut",
    "holds_places",
    "is_ambiguous",
    "join",
    "own",
    "pad",
    "rows_of",
]

Payload = Any


class Uncuttable(TypeError):  # noqa: N818  (names the state of the payload, not the act)
    """A payload, or a part of it, is not made of rows; the message says which part."""


def count(payload: Payload) -> int | None:
    """The number of rows, or None where the payload is opaque or its columns disagree."""
    try:
        return _count(payload)
    except RecursionError:
        return None


def _count(payload: Payload) -> int | None:
    if isinstance(payload, list):
        return len(payload)
    if _is_block(payload):
        return int(payload.shape[0])
    columns = _columns(payload)
    if columns is None:
        return None
    lengths = {_count(column) for column in columns.values() if column is not None}
    return lengths.pop() if len(lengths) == 1 else None


def cut(payload: Payload, start: int, stop: int) -> Payload:
    """The rows from `start` up to `stop`; tensors and arrays are views, not copies.

    Raises:
        Uncuttable: some part of the payload is not made of rows.
    """
    rows_of(payload)
    return _cut(payload, start, stop)


def join(payloads: Sequence[Payload]) -> Payload:
    """One payload with the rows of all, in order; the inverse of cutting.

    Raises:
        Uncuttable: the payloads are not made of rows, or differ in type, keys, shape or dtype.
    """
    for payload in payloads:
        rows_of(payload)
    return _join(payloads, "the payload")


def _cut(payload: Payload, start: int, stop: int) -> Payload:
    if payload is None:
        return None
    if isinstance(payload, list) or _is_block(payload):
        return payload[start:stop]
    columns = _columns(payload)
    if columns is None:
        raise Uncuttable(f"{_type(payload)} is not made of rows")
    return _like(payload, {key: _cut(column, start, stop) for key, column in columns.items()})


def _join(payloads: Sequence[Payload], where: str) -> Payload:
    first = payloads[0]
    if any(type(payload) is not type(first) for payload in payloads):
        found = ", ".join(sorted({_type(payload) for payload in payloads}))
        raise Uncuttable(f"{where} has several types: {found}")
    if first is None:
        return None
    if isinstance(first, list):
        return [row for payload in payloads for row in payload]
    if isinstance(first, torch.Tensor):
        _same([f"{p.dtype} {tuple(p.shape[1:])} on {p.device}" for p in payloads], where)
        return torch.cat(list(payloads))
    if isinstance(first, np.ndarray):
        _same([f"{p.dtype} {p.shape[1:]}" for p in payloads], where)
        return np.concatenate(list(payloads))
    columns = [_columns(payload) or {} for payload in payloads]
    if any(c.keys() != columns[0].keys() for c in columns):
        raise Uncuttable(f"{where} has different columns in different micro-batches")
    return _like(
        first, {key: _join([c[key] for c in columns], f"column {key!r}") for key in columns[0]}
    )


def _same(kinds: list[str], where: str) -> None:
    if len(set(kinds)) > 1:
        raise Uncuttable(
            f"{where} has rows of different kinds: {'; '.join(sorted(set(kinds)))}. Override "
            f"group_by(payload) to keep them apart, or join_payloads(payloads) to pad them"
        )


def rows_of(payload: Payload) -> int:
    """The number of rows; unlike `count`, says what is wrong where there is none.

    Raises:
        Uncuttable: some part of the payload is not made of rows.
    """
    try:
        return _rows_of(payload, "the payload")
    except RecursionError:
        raise Uncuttable("the payload is nested too deeply") from None


def _rows_of(payload: Payload, where: str) -> int:
    columns = _columns(payload)
    if columns is None:
        rows = _count(payload)
        if rows is None:
            raise Uncuttable(f"{where} is {_type(payload)}, which is not made of rows")
        return rows
    lengths = {
        key: _rows_of(column, f"column {key!r}")
        for key, column in columns.items()
        if column is not None
    }
    if not lengths:
        raise Uncuttable(f"{where} is {_type(payload)} without columns")
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{key!r} has {rows}" for key, rows in lengths.items())
        raise Uncuttable(f"the columns of {where} differ in rows: {text}")
    return next(iter(lengths.values()))


def is_ambiguous(payload: Payload, rows: int) -> bool:
    """Whether a payload of so many rows may as well be columns of so many rows each.

    >>> is_ambiguous([[1, 2], [3, 4]], 2), is_ambiguous([[1, 2, 3], [4, 5, 6]], 2)
    (True, False)
    """
    if isinstance(payload, list):
        return len(payload) == rows and all(_count(item) == rows for item in payload)
    columns = _columns(payload) or {}
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
        columns: Any = [_columns(item) for item in payload]
        if all(isinstance(item, int) for item in payload):
            return _are_places(payload, expected)
        if None in columns:
            return False
        shared = set(columns[0]).intersection(*columns[1:]) if columns else set()
        return any(_are_places([each[key] for each in columns], expected) for key in shared)
    found = _columns(payload) or {}
    return any(holds_places(column, rows, places) for column in found.values())


def _are_places(values: list[Any], places: list[int]) -> bool:
    return all(type(value) is int for value in values) and sorted(values) == places


def _is_block(payload: Payload) -> bool:
    """Whether this is a tensor or an array whose rows can be cut and joined without loss.

    Not sparse, nested or quantized tensors, nor masked or record arrays.
    """
    if isinstance(payload, torch.Tensor):
        whole = payload.is_nested or payload.is_quantized or payload.layout != torch.strided
        return not whole and payload.ndim > 0
    return type(payload) is np.ndarray and payload.ndim > 0


def _columns(payload: Payload) -> dict[Any, Payload] | None:
    if isinstance(payload, Mapping):
        return dict(payload.items())
    if isinstance(payload, tuple):
        return dict(enumerate(payload))
    return None


def _like(payload: Payload, columns: dict[Any, Payload]) -> Payload:
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


def _type(payload: Payload) -> str:
    return f"{type(payload).__module__}.{type(payload).__qualname__}".removeprefix("builtins.")


@dataclass(frozen=True)
class PayloadOps:
    """How the pipeline handles payloads; users replace some of it by overriding hooks."""

    count: Callable[[Payload], int | None]
    rows_of: Callable[[Payload], int | None]
    cut: Callable[[Payload, int, int], Payload]
    join: Callable[[Sequence[Payload]], Payload]
    group_by: Callable[[Payload], Sequence[Hashable] | None] | None = None
    """A key for each row of what preprocess returned; see grouping.py. None: there is no hook."""


def pad(payload: Payload, rows: int, size: int, ops: PayloadOps) -> Payload:
    """A payload of `rows` rows, filled up to `size` with copies of its last one.

    A real row, so that nothing the model computes from it can be strange.

    Raises:
        Uncuttable: see `cut` and `join`.
    """
    last = ops.cut(payload, rows - 1, rows)
    return ops.join([payload] + [last] * (size - rows))


def own(payload: Payload) -> Payload:
    """The payload with copies of its tensors, in memory that nobody else writes to."""
    return change_leaves(
        payload, lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf
    )


CUT_AND_JOIN = PayloadOps(count, rows_of, cut, join)
