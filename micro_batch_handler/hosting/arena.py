"""A worker's shared memory, handed out to its calls in flight.

    page 0      one byte for each call: the host sets it while the model has that call; and a number
            that the host changes as long as it moves
    the rest    what the calls send and get back

Who finds no space waits until others give theirs back; the arena never grows.
"""

from __future__ import annotations

import math
import struct
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from micro_batch_handler.errors import ArenaTooSmall
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["ALIGNMENT_BYTES", "Arena", "Slot", "aligned", "beat", "last_beat", "mark_running"]

HEADER_BYTES = 4096
PULSE = struct.Struct("<Q")
PULSE_AT = HEADER_BYTES - PULSE.size
ALIGNMENT_BYTES = 256
"""As the device aligns its own memory."""

LOOK_S = 1.0
"""While a call waits for space."""


class Slot(NamedTuple):
    """A part of the arena, held for one call."""

    ticket: int
    start: int
    """In bytes from the begin of the shared memory; a multiple of 256."""
    size_bytes: int
    """A multiple of 256; 0 for a call that only needs a ticket."""


class _Waiting:
    """A call that wants a slot; `granted` is set once it has one."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.granted = threading.Event()
        self.slot: Slot | None = None


class Arena:
    """Slots of a `SharedMemory`, for several threads.

    Args:
        size_bytes: for payloads; the header comes on top.
        tickets: the most calls at a time, 4088 at most.

    Raises:
        ConfigError: the system refuses the memory.
    """

    def __init__(self, size_bytes: int, tickets: int = 64) -> None:
        if not 0 < tickets <= PULSE_AT:
            raise ValueError(f"tickets must be from 1 to {PULSE_AT}, not {tickets}")
        self.shared = SharedMemory.create(HEADER_BYTES + aligned(size_bytes))
        self._lock = threading.Lock()
        # In order of their starts. Those of no size are not in it.
        self._taken: list[Slot] = []
        # The one that was free longest is used first: a late message then meets no other call.
        self._tickets = deque(range(tickets))
        self._waiting: deque[_Waiting] = deque()

    def take(
        self,
        size_bytes: int,
        until_s: float | None,
        clock: Clock,
        look: Callable[[], None] = lambda: None,
    ) -> Slot:
        """Space for a call, at the lowest place, whose pages are likely in use already.

        Calls get their slots in the order in which they ask, so that a large one is never passed
        over for ever. Until then this blocks.

        Args:
            size_bytes: 0 for a ticket alone.
            until_s: how long to wait, as a moment of the clock.
            clock: that knows the time.
            look: called about every second meanwhile; what it raises ends the wait.

        Raises:
            ArenaTooSmall: not even the empty arena has that space.
            TimeoutError: no space was given back in time.
        """
        space_bytes = self.shared.size_bytes - HEADER_BYTES
        if aligned(size_bytes) > space_bytes:
            raise ArenaTooSmall(size_bytes, space_bytes)
        waiting = _Waiting(aligned(size_bytes))
        in_time = False
        try:
            with self._lock:
                self._waiting.append(waiting)
                self._grant()
            end_s = math.inf if until_s is None else until_s
            while not (in_time := clock.wait(waiting.granted, min(end_s, clock.now_s() + LOOK_S))):
                if clock.now_s() >= end_s:
                    break
                look()
        finally:  # also where an alarm interrupts the wait
            if not in_time:
                self._withdraw(waiting)
        if waiting.slot is None or not in_time:
            raise TimeoutError(
                f"no {size_bytes} of {space_bytes} bytes of shared memory came free in time"
            )
        return waiting.slot

    def give_back(self, slot: Slot) -> None:
        """The call is over, and neither side reads or writes the slot any more.

        Raises:
            ValueError: the slot is not taken.
        """
        with self._lock:
            self._release(slot)
            self._grant()

    def running(self, slot: Slot) -> bool:
        """Whether the host has handed this call to the model."""
        return bool(self.shared.view[slot.ticket])

    def _grant(self) -> None:
        """Give slots to those who wait, in their order, while there is space."""
        while self._waiting and self._tickets:
            first = self._waiting[0]
            start = self._find(first.size_bytes)
            if start is None:
                return
            self._waiting.popleft()
            first.slot = Slot(self._tickets.popleft(), start, first.size_bytes)
            self.shared.view[first.slot.ticket] = 0
            if first.size_bytes:
                insort(self._taken, first.slot, key=_start)
            first.granted.set()

    def _find(self, size_bytes: int) -> int | None:
        """Where the first gap of that size begins."""
        end = HEADER_BYTES
        for slot in self._taken:
            if slot.start - end >= size_bytes:
                return end
            end = slot.start + slot.size_bytes
        return end if self.shared.size_bytes - end >= size_bytes else None

    def _release(self, slot: Slot) -> None:
        if slot.ticket in self._tickets:
            raise ValueError(f"{slot} is not taken")
        if slot.size_bytes:
            self._taken.remove(slot)
        self._tickets.append(slot.ticket)

    def _withdraw(self, waiting: _Waiting) -> None:
        with self._lock:
            if waiting.slot is not None:  # it came too late
                self._release(waiting.slot)
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            self._grant()


def aligned(size_bytes: int) -> int:
    """The next multiple of 256."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def mark_running(view: memoryview, ticket: int, *, runs: bool) -> None:
    """In the host: whether the model has this call now."""
    view[ticket] = runs


def beat(view: memoryview, number: int) -> None:
    """In the host: it moves, and says so with another number each time."""
    PULSE.pack_into(view, PULSE_AT, number)


def last_beat(view: memoryview) -> int:
    """In the member: the last number that the host has written."""
    number: int = PULSE.unpack_from(view, PULSE_AT)[0]
    return number


def _start(slot: Slot) -> int:
    return slot.start
