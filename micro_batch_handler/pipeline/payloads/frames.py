"""Blocks of pandas: DataFrames and Series, whose rows count by position; pandas is not imported.

A default index, which numbers the rows from 0, does so in each part too, since handlers find rows
by these numbers. Any other index is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from micro_batch_handler.pipeline.payloads.blocks import Block, Uncuttable

__all__ = ["frame_block", "frame_columns"]


def frame_block(payload: Any) -> Block | None:
    """How a frame's rows are cut and joined; None if it is no frame, or one with `attrs`."""
    pandas = sys.modules.get("pandas")  # unless it is loaded, nothing is a frame
    kinds = (getattr(pandas, "DataFrame", ()), getattr(pandas, "Series", ()))
    return FRAME if isinstance(payload, kinds) and not payload.attrs else None


def frame_columns(frame: Any) -> Iterator[list[Any]]:
    """The values of its columns, and those of its index unless that is a default index."""
    if not _is_default(frame.index):
        yield frame.index.tolist()
    columns = [frame] if frame.ndim == 1 else [column for _, column in frame.items()]
    for column in columns:
        yield column.tolist()


def _cut(frame: Any, start: int, stop: int) -> Any:
    part = frame.iloc[start:stop].copy()  # a stage may write to its part
    return _numbered(part) if _is_default(frame.index) else part


def _join(frames: Sequence[Any], where: str) -> Any:
    pandas = sys.modules["pandas"]
    first = frames[0]
    for frame in frames:
        _check_alike(first, frame, where)
    joined = pandas.concat(list(frames))
    if all(_is_default(frame.index) for frame in frames):
        joined = _numbered(joined)
    _check_alike(first, joined, where)
    return joined


def _numbered(frame: Any) -> Any:
    index = sys.modules["pandas"].RangeIndex(len(frame), name=frame.index.name)
    return frame.set_axis(index, axis=0)


def _is_default(index: Any) -> bool:
    """Whether an index only numbers the rows from 0."""
    is_range = isinstance(index, sys.modules["pandas"].RangeIndex)
    return is_range and bool(index.start == 0 and index.step == 1)


def _check_alike(one: Any, other: Any, where: str) -> None:
    """Raise Uncuttable if pandas would convert values or fill gaps to join the two."""
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
    """The types of the index, then of the columns."""
    index, columns = frame.index, [frame.dtype] if frame.ndim == 1 else list(frame.dtypes)
    return [*(index.dtypes if index.nlevels > 1 else [index.dtype]), *columns]


def _same_type(one: Any, other: Any) -> bool:
    """Categories must have the same order too, since codes refer to it."""
    categories = getattr(one, "categories", None)
    return bool(one == other) and (categories is None or categories.equals(other.categories))


FRAME = Block(_cut, _join)
