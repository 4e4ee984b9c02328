"""Micro-batches: some rows of a batch, and where their payload comes from."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps

__all__ = ["MicroBatch", "Part", "gather"]


class Part:
    """Rows `start` to `stop` of what one call of the stage before returned."""

    __slots__ = ("done", "keys", "payload", "rows", "start", "stop")

    def __init__(
        self,
        payload: Payload,
        rows: int,
        start: int,
        stop: int,
        done: Any = None,
        keys: Sequence[Hashable] | None = None,
    ) -> None:
        self.payload = payload
        self.rows = rows
        self.start = start
        self.stop = stop
        self.done = done
        """The device's event after which the payload may be used; None if it may be at once."""
        self.keys = keys
        """One for each row of the payload: those of different keys share no call. None: all may."""

    def only(self, start: int, stop: int) -> Part:
        """Fewer rows of the same payload."""
        return Part(self.payload, self.rows, start, stop, self.done, self.keys)


def gather(parts: Sequence[Part], ops: PayloadOps) -> Payload:
    """The rows of all parts as one payload; untouched if they came as one.

    Raises:
        Uncuttable: see `cut` and `join`.
    """
    pieces = [
        part.payload
        if part.stop - part.start == part.rows
        else ops.cut(part.payload, part.start, part.stop)
        for part in parts
    ]
    return pieces[0] if len(pieces) == 1 else ops.join(pieces)


class MicroBatch:
    """Some rows of a batch that travel together through one stage.

    `indices` are the requests' places in the batch, ascending among those that share calls. The
    parts are joined only when a lane of the stage takes the micro-batch, so that the joining runs
    in parallel too. Without parts the rows start again from the requests: so does the first stage,
    and what must be repeated after a fault.
    """

    __slots__ = (
        *("failed", "failed_alone", "lost_alone"),
        *("indices", "parts", "planned", "ready_s", "serial"),
    )

    def __init__(
        self,
        indices: Sequence[int],
        parts: Sequence[Part] = (),
        *,
        planned: bool = True,
        failed: bool = False,
        failed_alone: bool = False,
        lost_alone: bool = False,
        serial: bool = False,
    ) -> None:
        self.indices = indices
        self.parts = parts
        self.planned = planned
        """Whether it is a micro-batch of the plan, not a piece of one."""
        self.failed = failed
        """Whether a call with these rows has failed."""
        self.failed_alone = failed_alone
        """Whether a call with this one row alone has failed."""
        self.lost_alone = lost_alone
        """Whether the model host has ended during a call with this one row alone."""
        self.serial = serial
        """Whether it passes all stages in one go, from its requests on, while no other rows of its
        batch do. Nothing is counted, cut or joined in between, and what fails there has failed."""
        self.ready_s: float | None = None
        """Since when a lane could take it, on the pipeline's clock; None if one does at once."""

    def __len__(self) -> int:
        return len(self.indices)

    def pieces(self, size: int) -> list[MicroBatch]:
        """The same rows in micro-batches of at most `size`, uncut until a lane takes them."""
        return [
            self.only(range(start, min(start + size, len(self))))
            for start in range(0, len(self), size)
        ]

    def again(self, *, failed_alone: bool = False, lost_alone: bool = False) -> MicroBatch:
        """The same rows, from their requests on, since a call with them has failed."""
        return MicroBatch(
            self.indices,
            failed=True,
            failed_alone=failed_alone,
            lost_alone=lost_alone,
            serial=self.serial,
        )

    def only(self, places: Sequence[int], *, planned: bool = False) -> MicroBatch:
        """The rows at these places of the micro-batch, ascending."""
        indices = [self.indices[place] for place in places]
        parts = []
        offset = 0
        for part in self.parts:
            rows = part.stop - part.start
            inside = [place - offset for place in places if offset <= place < offset + rows]
            parts += [
                part.only(part.start + first, part.start + last + 1)
                for first, last in _stretches(inside)
            ]
            offset += rows
        some = MicroBatch(
            indices,
            parts,
            planned=planned,
            failed=self.failed,
            failed_alone=self.failed_alone,
            lost_alone=self.lost_alone,
            serial=self.serial,
        )
        some.ready_s = self.ready_s
        return some


def _stretches(places: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last of each stretch of neighbours in an ascending list."""
    stretches: list[tuple[int, int]] = []
    for place in places:
        if stretches and stretches[-1][1] == place - 1:
            stretches[-1] = (stretches[-1][0], place)
        else:
            stretches.append((place, place))
    return stretches
