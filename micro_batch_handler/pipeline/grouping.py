"""Rows that may not share a call: kept apart by a key, or by what their payloads hold beside them.

    preprocess returns   rows 0 1 2 3, keys a b a b
    inference in 4s      waits for its rows as ever, then calls [0 2], [1 3]
    postprocess in 4s    the same

Which rows share a call is fixed by the plan and the keys. A lane parts its micro-batch when it
takes it, as it does where the memory is too small: nothing else in the hand-over knows of keys.

Parts whose payloads hold different constants, a loss for example, are no rows of one payload: each
call gets the constant that was computed for its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import LengthError
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps
from micro_batch_handler.pipeline.payloads.structure import block_of

__all__ = ["Keys", "by_constants", "by_key", "keys_made", "keys_passed_on"]

Keys: TypeAlias = "Sequence[Hashable] | None"


def keys_made(
    group_by: Callable[[Payload], Keys], stage: Stage, result: Payload, rows: int
) -> Keys:
    """What the hook says of the rows that a stage returned.

    Raises:
        LengthError: it is not a key for each row.
        TypeError: a key cannot be hashed.
    """
    keys = group_by(result)
    if keys is None:
        return None
    keys = list(keys)
    if len(keys) != rows:
        raise LengthError(stage, rows, len(keys), "group_by() must give a key for each row")
    dict.fromkeys(keys)  # raises here, where the key comes from
    return keys


def keys_passed_on(parts: Sequence[Part], rows: int) -> Keys:
    """The key of a call's rows, for each row of what it returned."""
    first = parts[0]
    return None if first.keys is None else [first.keys[first.start]] * rows


def by_key(micro_batch: MicroBatch) -> list[MicroBatch]:
    """The same rows, those of each key apart, in the order in which the keys first come."""
    groups: dict[Hashable, list[int]] = {}
    place = 0
    for part in micro_batch.parts:
        if part.keys is None:
            return [micro_batch]
        for key in part.keys[part.start : part.stop]:
            groups.setdefault(key, []).append(place)
            place += 1
    return (
        [micro_batch]
        if len(groups) <= 1
        else [micro_batch.only(places) for places in groups.values()]
    )


def by_constants(micro_batch: MicroBatch, ops: PayloadOps) -> tuple[list[MicroBatch], str]:
    """The same rows, apart where their payloads hold different constants, and the first of these.

    Parts share a group with their neighbours.
    """
    first = micro_batch.parts[0].payload
    differs = None if block_of(first) else ops.difference
    if differs is None:
        return [micro_batch], ""
    groups: list[tuple[Payload, list[int]]] = []
    place, where = 0, ""
    for part in micro_batch.parts:
        places = range(place, place := place + part.stop - part.start)
        # Beside the part before only: to compare all would take their number squared.
        found = differs(groups[-1][0], part.payload) if groups else ""
        if groups and not found:
            groups[-1][1].extend(places)
        else:
            groups.append((part.payload, [*places]))
        where = where or found
    if len(groups) == 1:
        return [micro_batch], ""
    return [micro_batch.only(each) for _, each in groups], where
