"""A piece of memory that two processes see.

It has no name, so nothing is left behind when its processes end, even by SIGKILL.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NoReturn

from micro_batch_handler.errors import ConfigError

__all__ = ["SharedMemory"]


class SharedMemory:
    """Memory behind a file descriptor; whoever gets a copy of the descriptor can attach it.

    Made by `create` or `attach`. Its pages take no memory before they are first written to.
    """

    fd: int
    """To send to the other process; -1 once closed."""
    size_bytes: int
    view: memoryview
    """All of it, as writable bytes; empty once closed."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        try:
            mapped = mmap.mmap(fd, size_bytes)
        except (OSError, ValueError) as error:
            os.close(fd)
            _refuse(size_bytes, error)
        self.fd = fd
        self.size_bytes = size_bytes
        self.view = memoryview(mapped)

    @classmethod
    def create(cls, size_bytes: int) -> SharedMemory:
        """New memory, all zeros.

        Raises:
            ConfigError: the system refuses it.
        """
        try:
            fd = _nameless_file()
        except OSError as error:
            _refuse(size_bytes, error)
        try:
            os.truncate(fd, size_bytes)
        except (OSError, OverflowError) as error:
            os.close(fd)
            _refuse(size_bytes, error)
        return cls(fd, size_bytes)

    @classmethod
    def attach(cls, fd: int, size_bytes: int) -> SharedMemory:
        """The memory that another process has made; takes over the descriptor.

        Raises:
            ConfigError: the system refuses it, or it is smaller than that.
        """
        return cls(fd, size_bytes)

    def close(self) -> None:
        """Let go of the memory; it stays mapped as long as something else uses a part of it."""
        if self.fd >= 0:
            # Unmapped by the last reference to it, since a tensor may still lie in it.
            self.view = memoryview(b"")
            os.close(self.fd)
            self.fd = -1


def _nameless_file() -> int:
    # Not a file in /dev/shm, which has 64 MB in a container.
    if hasattr(os, "memfd_create"):
        return os.memfd_create("micro_batch_handler")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _refuse(size_bytes: int, error: Exception) -> NoReturn:
    raise ConfigError(
        f"no {size_bytes} bytes of memory to share with the process that has the model: {error}. "
        "Lower micro_batching.device.pinned_bytes or maxWorkers, or raise the limits of this "
        "process for memory and open files (ulimit -v, ulimit -n)"
    ) from error
