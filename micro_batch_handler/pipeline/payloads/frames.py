"""DataFrames and Series of pandas as blocks of rows, by position; pandas itself is not imported.

A handler that numbers its rows from 0 finds them so in each part: an index that is pandas' own
counts from 0 again. Any other index is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from micro_batch_handler.pipeline.payloads.block import Block, Uncuttable, first_dimension

__all__ = ["frame_block", "frame_columns"]


def frame_block(payload: Any) -> Block | None:
    """How its rows are handled; None where this is no frame, or has something beside its rows."""
    pandas = sys.modules.get("pandas")  # where it is not loaded, nothing is a frame
    kinds = (getattr(pandas, "DataFrame", ()), getattr(pandas, "Series", ()))
    return FRAME if isinstance(payload, kinds) and not payload.attrs else None


def frame_columns(frame: Any) -> Iterator[list[Any]]:
    """The values of its columns, and those of its index unless that counts from 0."""
    if not _counts(frame.index):
        yield frame.index.tolist()
    columns = [frame] if frame.ndim == 1 else [column for _, column in frame.items()]
    for column in columns:
        yield column.tolist()


def _cut(frame: Any, start: int, stop: int) -> Any:
    part = frame.iloc[start:stop].copy()  # what a stage writes into a part is for that part
    return _count_again(part) if _counts(frame.index) else part


def _join(frames: Sequence[Any], where: str) -> Any:
    pandas = sys.modules["pandas"]
    first = frames[0]
    for frame in frames:
        _check_alike(first, frame, where)
    joined = pandas.concat(list(frames))
    if all(_counts(frame.index) for frame in frames):
        joined = _count_again(joined)
    _check_alike(first, joined, where)
    return joined


def _count_again(frame: Any) -> Any:
    index = sys.modules["pandas"].RangeIndex(len(frame), name=frame.index.name)
    return frame.set_axis(index, axis=0)


def _counts(index: Any) -> bool:
    """Whether an index only counts the rows from 0."""
    counts = isinstance(index, sys.modules["pandas"].RangeIndex)
    return counts and bool(index.start == 0 and index.step == 1)


def _check_alike(one: Any, other: Any, where: str) -> None:
    """Refuse what pandas would bring to one type by changing values, or fill up."""
    types = [_types(frame) for frame in (one, other)]
    alike = (
        type(one) is type(other)
        and one.index.names == other.index.names
        and (one.name == other.name if one.ndim == 1 else one.columns.identical(other.columns))
        and all(_same_type(*pair) for pair in zip(*types, strict=True))
    )
    if not alike:
        told = "; ".join(", ".join(map(str, found)) for found in types)
        raise Uncuttable(
            f"{where} has frames that differ in names, columns or types: {told}. Override "
            f"group_by(payload) to keep them apart, or join_payloads(payloads) to make them alike"
        )


def _types(frame: Any) -> list[Any]:
    """Of the index, then of the columns."""
    index, columns = frame.index, [frame.dtype] if frame.ndim == 1 else list(frame.dtypes)
    return [*(index.dtypes if index.nlevels > 1 else [index.dtype]), *columns]


def _same_type(one: Any, other: Any) -> bool:
    """Categories count in their order, which says what the codes mean."""
    categories = getattr(one, "categories", None)
    return bool(one == other) and (categories is None or categories.equals(other.categories))


FRAME = Block(first_dimension, _cut, _join)
