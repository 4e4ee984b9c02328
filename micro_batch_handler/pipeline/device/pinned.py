"""Page-locked buffers of the host, which a device reads and writes on its own, to be used again.

Locking pages takes longer than most copies, so it is done once a buffer, not once a call
(https://pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import torch

from micro_batch_handler.pipeline.device.accelerator import Accelerator

__all__ = ["PinnedBuffers"]

logger = logging.getLogger(__name__)

SMALLEST_BYTES = 4096


class PinnedBuffers:
    """Buffers in sizes of powers of two, made when needed, at most `limit_bytes` in all.

    Args:
        device: makes them.
        limit_bytes: of all buffers together, whether in use or not.
    """

    def __init__(self, device: Accelerator, limit_bytes: int) -> None:
        self._device = device
        self._left_bytes = limit_bytes
        self._lock = threading.Lock()
        self._idle: dict[int, list[Any]] = {}
        self._size_of: dict[int, int] = {}

    def take(self, size_bytes: int) -> Any | None:
        """A buffer for so many bytes; None if there is none left, or the system refuses to lock.

        Whoever gets None copies without one, which is right and slower.
        """
        size = max(SMALLEST_BYTES, 1 << (size_bytes - 1).bit_length())
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                return idle.pop()
            if size > self._left_bytes:
                return None
            self._left_bytes -= size
        try:
            # An inference tensor could not be written to outside inference mode.
            with torch.inference_mode(False):
                buffer = self._device.pinned_buffer(size)
        except RuntimeError as error:
            logger.warning("no page-locked memory: %s. Copies go on without it", error)
            with self._lock:
                self._left_bytes = 0
            return None
        with self._lock:
            self._size_of[id(buffer)] = size
        return buffer

    def give_back(self, buffer: Any) -> None:
        """The device is done with the buffer."""
        with self._lock:
            self._idle.setdefault(self._size_of[id(buffer)], []).append(buffer)
