"""An emulated accelerator: one device that all processes of the machine share.

It computes nothing. It has three engines, as a GPU has; each does one thing at a time, in the
order in which work is asked for, and all three work at the same time:

    copy_in   bytes / bandwidth
    compute   launch + rows * cost of a row
    copy_out  bytes / bandwidth

The device is a file with the time at which each engine becomes free, on the monotonic clock that
all processes share. A call books its turn on each engine under a lock, then sleeps until its
result is there, without the interpreter's lock. A turn starts at the later of "now" and "the
engine is free", so that a sleep that ends late delays its own caller and nothing else: the engines
lose no time.

This file goes into archives by itself: it needs the standard library only.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["ENGINES", "Accelerator", "Turn"]

ENGINES = ("copy_in", "compute", "copy_out")

STATE = struct.Struct(f"={2 * len(ENGINES)}q")
"""When each engine is free, then how long each has worked so far; nanoseconds."""


class Turn(NamedTuple):
    """When an engine works on a call, in nanoseconds of the monotonic clock."""

    start_ns: int
    end_ns: int


class Accelerator:
    """A process's way to the device.

    Args:
        path: the device; made if it is not there, shared by all who name the same file.
        launch_ms: what each call costs on the compute engine.
        row_ms: what each row of a call costs there as well.
        gb_per_s: of each copy engine.
    """

    def __init__(
        self, path: str | Path, launch_ms: float, row_ms: float, gb_per_s: float = 12.0
    ) -> None:
        self._launch_ns = launch_ms * 1e6
        self._row_ns = row_ms * 1e6
        self._ns_per_byte = 1 / gb_per_s
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._lock = threading.Lock()

    def run(self, rows: int, bytes_in: int = 0, bytes_out: int = 0) -> tuple[Turn, ...]:
        """Copy in, compute, copy out; gives back each engine's turn when the last has ended."""
        turns = self._book(
            [
                bytes_in * self._ns_per_byte,
                self._launch_ns + rows * self._row_ns,
                bytes_out * self._ns_per_byte,
            ]
        )
        while (left_ns := turns[-1].end_ns - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        return turns

    def busy_s(self) -> dict[str, float]:
        """How long each engine has worked, booked work included, for all processes so far."""
        with self._lock:
            _, busy_ns = self._read()
        return {engine: busy_ns[i] / 1e9 for i, engine in enumerate(ENGINES)}

    def close(self) -> None:
        """Let go of the device; it goes on for others."""
        os.close(self._file)

    def _book(self, costs_ns: Sequence[float]) -> tuple[Turn, ...]:
        # A file lock tells open files apart, not threads.
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                free_ns, busy_ns = self._read()
                turns = []
                ready_ns = time.monotonic_ns()
                for engine, cost_ns in enumerate(map(round, costs_ns)):
                    start_ns = max(ready_ns, free_ns[engine])
                    ready_ns = free_ns[engine] = start_ns + cost_ns
                    busy_ns[engine] += cost_ns
                    turns.append(Turn(start_ns, ready_ns))
                os.pwrite(self._file, STATE.pack(*free_ns, *busy_ns), 0)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return tuple(turns)

    def _read(self) -> tuple[list[int], list[int]]:
        found = os.pread(self._file, STATE.size, 0) or bytes(STATE.size)
        numbers = list(STATE.unpack(found))
        return numbers[: len(ENGINES)], numbers[len(ENGINES) :]
