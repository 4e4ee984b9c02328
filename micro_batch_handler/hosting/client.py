"""The member's side: asks the model host, and starts another one when it is lost.

    ask(...)    the payload goes into the shared memory, the question over a connection of its own
                the answer is copied out; the call's part of the memory is given back

A host that ends closes all connections. Whoever waits for an answer then looks into its own memory:
a question that the model had not got is asked again, of the next host; one that it had may be the
reason, and its rows are called again one by one, which is the caller's affair.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from micro_batch_handler.errors import HostLost, HostMissing
from micro_batch_handler.hosting.arena import Arena, Slot, aligned
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.hosting.messages import Again, Answer, Failed, HostCall, Question
from micro_batch_handler.hosting.pickling import dump, load, place, placed_bytes, views
from micro_batch_handler.hosting.remote_errors import RemoteFault, unpacked
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["HostClient", "Rows", "Told"]

INLINE_DATA_BYTES = 16 * 1024
"""Pickles from this size on go through the shared memory too."""

MOST_LOST = 3
"""Hosts that may end before the model got a question. A payload can end a process that reads it."""


class Rows(NamedTuple):
    """The rows of a call, as the host gets them."""

    payload: Payload
    number: int
    kind: Hashable
    merges: bool
    most_rows: int
    context: Sequence[Any]
    handles: bool = False
    """Whether they are requests for the handler's own `handle`; they share no call then."""
    alone: bool = False
    """Whether the host does nothing else meanwhile."""


class Told(NamedTuple):
    """What the host has answered."""

    result: Payload
    effects: Sequence[Sequence[Any]] | None
    """See `Answer`."""
    call: HostCall | None


class HostClient:
    """Asks the model host for one member; every method may be called from any thread.

    Args:
        link: finds the host, or starts it.
        arena: the member's memory.
        clock: the time.
        call_s: the longest that one host call may take; None for any time.
    """

    def __init__(
        self,
        link: HostLink,
        arena: Arena,
        clock: Clock | None = None,
        call_s: float | None = None,
    ) -> None:
        self._link = link
        self._arena = arena
        self._clock = clock or Clock()
        self._call_s = call_s
        self._result_bytes_per_row = 0
        self._lock = threading.Lock()
        self._asking = 0
        self._closed = False
        self._abandoned: list[tuple[int, Slot]] = []
        """Slots that a host may still write to, each with the generation of that host."""

    def ask(self, stage: str, rows: Rows, until_s: float | None) -> Told:
        """What the hosted stages return for these rows.

        Args:
            stage: for the errors.
            rows: of the call.
            until_s: how long to wait for space, for a host, and for the call to begin, as a moment
                of the clock.

        Raises:
            HostMissing: there was no host, or no space, in time.
            HostLost: the host ended while the model had these rows, or several before.
            ArenaTooSmall: the rows do not fit the shared memory.
            RemoteFault: the call failed; it has the error as `error`.
            TypeError: the payload cannot be sent.
        """
        try:
            pickled = dump(rows.payload)
        except Exception as error:
            raise TypeError(
                f"what {stage} gets cannot be sent to the process with the model: {error}. Hand on "
                f"tensors, arrays, and lists or dicts of such"
            ) from error
        buffers = pickled.buffers
        if len(pickled.data) >= INLINE_DATA_BYTES:
            buffers = [memoryview(pickled.data), *buffers]
        sent_bytes = placed_bytes(buffers)
        # Room for a large result is worth a quarter of the memory, and no more.
        result_bytes = aligned(self._result_bytes_per_row * rows.number)
        room_bytes = max(sent_bytes, min(result_bytes, self._arena.shared.size_bytes // 4))
        with self._lock:
            if self._closed:
                raise HostMissing(stage, "the handler was closed")
            self._asking += 1
        try:
            return self._ask_in_slot(stage, rows, pickled.data, buffers, room_bytes, until_s)
        finally:
            with self._lock:
                self._asking -= 1
                self._free_closed()

    def _ask_in_slot(
        self,
        stage: str,
        rows: Rows,
        data: bytes,
        buffers: Sequence[memoryview],
        room_bytes: int,
        until_s: float | None,
    ) -> Told:
        look = partial(self._take_back_abandoned, stage, until_s)
        look()
        try:
            slot = self._arena.take(room_bytes, until_s, self._clock, look)
        except TimeoutError as error:
            raise HostMissing(stage, str(error)) from None
        keep: list[int] = []
        try:
            return self._ask(stage, rows, data, buffers, slot, until_s, keep)
        finally:
            if keep:
                with self._lock:
                    self._abandoned.append((keep[0], slot))
            else:
                self._arena.give_back(slot)

    def _take_back_abandoned(self, stage: str, until_s: float | None) -> None:
        """Use the slots again whose hosts have ended, which the next host's coming shows."""
        if self._abandoned:
            self._link.find(stage, until_s)
        with self._lock:
            now = self._link.connections.generation
            over = [slot for generation, slot in self._abandoned if generation < now]
            self._abandoned = [each for each in self._abandoned if each[0] >= now]
        for slot in over:
            self._arena.give_back(slot)

    def _ask(
        self,
        stage: str,
        rows: Rows,
        data: bytes,
        buffers: Sequence[memoryview],
        slot: Slot,
        until_s: float | None,
        keep: list[int],
    ) -> Told:
        group = lost = 0
        view = self._arena.shared.view
        late_s = None if until_s is None or self._call_s is None else until_s + self._call_s
        while True:
            connection = self._link.connection(stage, until_s)
            # Each time anew: a call that failed may have written to its rows.
            places = place(buffers, view, slot.start)
            view[slot.ticket] = 0
            question = Question(
                rows.number,
                rows.kind,
                group,
                rows.merges,
                rows.handles,
                rows.most_rows,
                b"" if len(data) >= INLINE_DATA_BYTES else data,
                places,
                slot.ticket,
                (slot.start, slot.size_bytes),
                until_s,
                rows.context,
                rows.alone,
            )
            try:
                reply = connection.ask(stage, question, late_s)
            except BaseException:
                # The host still has the question: nobody may use its part of the memory, nor take
                # the reply for that to another question.
                keep.append(connection.generation)
                self._link.connections.drop(connection.socket)
                raise
            if reply is None:
                self._link.connections.lost(connection)
                group, lost = 0, lost + 1
                if self._arena.running(slot) or lost == MOST_LOST:
                    raise HostLost(stage)
                continue  # the model had not got it
            self._link.connections.give_back(connection)
            if isinstance(reply, Again):
                group = reply.group
                continue
            if isinstance(reply, Failed):
                error = unpacked(reply.error)
                if isinstance(error, HostMissing):
                    raise error
                raise RemoteFault(error, reply.stage, reply.call)
            return self._read(reply, rows.number)

    def _read(self, answer: Answer, rows: int) -> Told:
        size_bytes = sum(size for _, size in answer.places) or len(answer.data)
        self._result_bytes_per_row = max(self._result_bytes_per_row, -(-size_bytes // rows))
        copies = [_copy(part) for part in views(self._arena.shared.view, answer.places)]
        return Told(load(answer.data, copies), answer.effects, answer.call)

    def close(self) -> None:
        """Leave the host, and end what waits for it; a second call does nothing."""
        self._link.close()
        with self._lock:
            self._closed = True
            self._free_closed()

    def _free_closed(self) -> None:
        """Let go of the memory once the last question has ended."""
        if self._closed and not self._asking:
            self._arena.shared.close()

    def __repr__(self) -> str:
        return f"<HostClient {self._link}>"


def _copy(part: memoryview) -> memoryview:
    copied = np.empty(part.nbytes, np.uint8)
    np.copyto(copied, np.frombuffer(part, np.uint8))
    return copied.data
