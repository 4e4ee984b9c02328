"""Regrouping between two stages that want different micro-batch sizes.

Which rows travel together is fixed by the plan, not by who finishes first, so a batch gives the
same calls every time it is run:

    rows             0 1 2 3 4 5 6
    preprocess in 2s [0 1][2 3][4 5][6]     finish in any order
    inference in 3s  [0 1 2][3 4 5][6]      a group leaves as soon as its last row has come

A row that failed is settled too: its group leaves without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part

__all__ = ["Regroup", "bounds"]


def bounds(rows: int, size: int) -> list[tuple[int, int]]:
    """Where `rows` rows are cut into micro-batches of `size`; the last may be smaller."""
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


class Regroup:
    """Collects what one stage returns into the micro-batches of the next.

    Args:
        rows: of the batch.
        before: the most rows of a micro-batch of the one stage.
        size: the most rows of a micro-batch of the next.

    Not thread-safe: the batch that owns it holds a lock.
    """

    def __init__(self, rows: int, before: int, size: int) -> None:
        self._size = size
        limits = bounds(rows, size)
        self.cuts_or_joins = limits != bounds(rows, before)
        """Whether the plan needs payloads that can be cut or joined here."""
        self._unsettled = [stop - start for start, stop in limits]
        # One slot a row, so that parts stand in order of rows whenever they come.
        self._slots: list[list[tuple[Sequence[int], Part] | None]] = [
            [None] * (stop - start) for start, stop in limits
        ]

    def add(self, indices: Sequence[int], result: Part) -> list[MicroBatch]:
        """Take a result whose rows belong to `indices`; give back the groups it completes."""
        ready: list[MicroBatch] = []
        start = 0
        for stop in range(1, len(indices) + 1):
            group = indices[start] // self._size
            if stop < len(indices) and indices[stop] // self._size == group:
                continue
            mine = indices[start:stop]
            self._slots[group][mine[0] % self._size] = (mine, result.only(start, stop))
            self._settle(group, len(mine), ready)
            start = stop
        return ready

    def drop(self, indices: Sequence[int]) -> list[MicroBatch]:
        """These rows have failed and will not come; give back the groups that waited for them."""
        ready: list[MicroBatch] = []
        for index in indices:
            self._settle(index // self._size, 1, ready)
        return ready

    def _settle(self, group: int, rows: int, ready: list[MicroBatch]) -> None:
        self._unsettled[group] -= rows
        if self._unsettled[group]:
            return
        filled = [slot for slot in self._slots[group] if slot is not None]
        self._slots[group] = []  # the payloads now belong to the micro-batch alone
        if len(filled) == 1:
            indices, part = filled[0]
            ready.append(MicroBatch(indices, [part]))
        elif filled:
            joined = [index for mine, _ in filled for index in mine]
            ready.append(MicroBatch(joined, [part for _, part in filled]))
