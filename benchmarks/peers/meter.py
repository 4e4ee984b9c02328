"""The processor time of a server's processes, and their memory at its peak."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

__all__ = ["Cost", "cpu_s", "metered"]

EVERY_S = 0.5


@dataclass
class Cost:
    """Of all processes of one server, while it was metered."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    """The most at once; what processes share is counted once (PSS)."""


def cpu_s(pids: list[int]) -> dict[int, float]:
    """The processor time of each process so far, in user mode and in the kernel."""
    found = {}
    for pid in pids:
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            # With the children that have ended: some servers make short-lived ones.
            found[pid] = times.user + times.system + times.children_user + times.children_system
    return found


@contextmanager
def metered(pids: Callable[[], list[int]]) -> Iterator[Cost]:
    """Fills in the cost, complete when the `with` statement ends."""
    cost = Cost()
    before = cpu_s(pids())
    done = threading.Event()

    def look() -> None:
        while True:
            cost.memory_bytes = max(cost.memory_bytes, _memory_bytes(pids()))
            if done.wait(EVERY_S):
                return

    thread = threading.Thread(target=look, name="meter", daemon=True)
    thread.start()
    try:
        yield cost
    finally:
        done.set()
        thread.join()
        cost.cpu_s = sum(now - before.get(pid, 0.0) for pid, now in cpu_s(pids()).items())


def _memory_bytes(pids: list[int]) -> int:
    found = 0
    for pid in pids:
        with suppress(psutil.Error):
            found += psutil.Process(pid).memory_full_info().pss
    return found
