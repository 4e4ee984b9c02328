"""The host's side of one member's shared memory: payloads out of it, results into it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import Any

import numpy as np

from micro_batch_handler.hosting.arena import aligned, beat, mark_running
from micro_batch_handler.hosting.messages import Place, Question
from micro_batch_handler.hosting.pickling import dump, dump_whole, load, place, placed_bytes, views
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.pipeline.device.accelerator import Accelerator

__all__ = ["MemberMemory"]

logger = logging.getLogger(__name__)


class MemberMemory:
    """The memory of one member.

    Args:
        name: of the member.
        fd: of the memory, which this object takes over.
        size_bytes: of the memory.
    """

    def __init__(self, name: str, fd: int, size_bytes: int) -> None:
        self.name = name
        self.connections = 0
        """Open ones; the last closes the memory."""
        self._shared = SharedMemory.attach(fd, size_bytes)
        self._address = int(np.frombuffer(self._shared.view, np.uint8).ctypes.data)
        self._lock = threading.Lock()
        self._locked_by: Accelerator | None = None
        self._refused = False

    def mark(self, ticket: int, *, runs: bool) -> None:
        """Note for the member whether the model has its call, for the case that the host ends."""
        mark_running(self._shared.view, ticket, runs=runs)

    def beat(self, number: int) -> None:
        """Let the member see that the host moves."""
        beat(self._shared.view, number)

    def close_another(self, fd: int) -> None:
        """Another connection of the member has brought the same memory once more."""
        os.close(fd)

    def lock(self, device: Accelerator) -> bool:
        """Page-lock the memory for a device, once; whether it is locked."""
        with self._lock:
            if self._locked_by is None and not self._refused:
                self._refused = not device.lock_pages(self._address, self._shared.size_bytes)
                if self._refused:
                    logger.warning(
                        "the memory of a worker cannot be page-locked: its rows are copied to the "
                        "device more slowly. Raise the limit of locked memory (ulimit -l)"
                    )
                else:
                    self._locked_by = device
            return self._locked_by is not None

    def payload(self, question: Question) -> Any:
        """The payload of a question; its tensors and arrays lie in the memory."""
        parts = views(self._shared.view, question.places)
        return load(question.data, parts) if question.data else load(parts[0], parts[1:])

    def put(self, result: Any, question: Question) -> tuple[bytes, list[Place]]:
        """A result as pickle and places in the question's room; all in the pickle if it is too big.

        What lies in the memory already stays where it is.
        """
        pickled = dump(result)
        start, size_bytes = question.room
        end = start + size_bytes
        here = [self._place_in(question.room, buffer) for buffer in pickled.buffers]
        start = max([start, *(aligned(at + size) for at, size in filter(None, here))])
        rest = [buffer for buffer, at in zip(pickled.buffers, here, strict=True) if at is None]
        if start + placed_bytes(rest) > end:
            return dump_whole(result), []
        new = iter(place(rest, self._shared.view, start))
        return pickled.data, [at if at is not None else next(new) for at in here]

    def close(self) -> None:
        """The member has gone."""
        if self._locked_by is not None:
            with suppress(RuntimeError):  # the device is lost, and this process ends
                self._locked_by.unlock_pages(self._address)
        self._shared.close()

    def _place_in(self, room: Place, buffer: memoryview) -> Place | None:
        """Where a buffer lies in the room; None if it lies elsewhere, in another call's perhaps."""
        at = int(np.frombuffer(buffer, np.uint8).ctypes.data) - self._address
        start, size_bytes = room
        inside = start <= at and at + buffer.nbytes <= start + size_bytes
        return (at, buffer.nbytes) if inside else None
