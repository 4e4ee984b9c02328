"""Process groups and ports of a server, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable

import psutil

from harness.settings import Ports
from harness.wait import until

__all__ = ["alive", "free_ports", "group", "is_free", "kill", "wait_gone"]


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def group(leader: int) -> list[int]:
    """The processes of the leader's group that run, orphans too."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == leader and alive(pid):
                found.append(pid)
    return found


def kill(pids: Iterable[int]) -> None:
    """SIGKILL each that still runs, and wait until all are gone."""
    pids = list(pids)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_gone(pid)


def wait_gone(pid: int, timeout: float = 30.0) -> None:
    """Wait until a process has ended.

    Raises:
        TimeoutError: it has not.
    """
    until(lambda: not alive(pid), f"the end of process {pid}", timeout)


def free_ports() -> Ports:
    """Loopback ports that nobody uses now; another program may still take one first."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return Ports(*(each.getsockname()[1] for each in sockets))


def is_free(port: int) -> bool:
    """Whether nobody listens on the loopback port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0
