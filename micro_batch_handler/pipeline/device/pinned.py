"""Page-locked buffers of the host, which calls use again and a device reads and writes by itself.

Locking pages takes longer than most copies, so it is done once for each buffer, not for each call
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
    """Buffers whose sizes are powers of two, made when they are needed.

    Args:
        device: that makes them.
        limit_bytes: the most memory of all buffers together, in use or not.
    """

    def __init__(self, device: Accelerator, limit_bytes: int) -> None:
        self._device = device
        self._left_bytes = limit_bytes
        self._lock = threading.Lock()
        self._idle: dict[int, list[Any]] = {}
        self._size_of: dict[int, int] = {}

    def take(self, size_bytes: int) -> Any | None:
        """A buffer for so many bytes; None if the limit is reached or the system refuses to lock.

        Copies without a buffer are correct, but slower.
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
            # A tensor made in inference mode cannot be written to outside it.
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
