"""The model hosts of a server, and what a server leaves behind of them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

from harness.model import Model
from harness.processes import alive, wait_gone
from harness.torchserve import TorchServe
from harness.wait import until

__all__ = [
    "hosts",
    "hosts_of_this_process",
    "kill_host",
    "meeting_places",
    "memory_of_members",
    "one_host",
]

HOST_MODULE = "micro_batch_handler.torchserve.host.process"


def hosts(server: TorchServe, model: str = "") -> list[int]:
    """The hosts that run for a server, or for one of its models."""
    found = []
    for pid in server.processes():
        with contextlib.suppress(psutil.Error):
            command = psutil.Process(pid).cmdline()
            if HOST_MODULE in command and model in ("", command[command.index(HOST_MODULE) + 1]):
                found.append(pid)
    return found


def hosts_of_this_process() -> list[int]:
    """The hosts that a handler in this process has started."""
    children = psutil.Process().children(recursive=True)
    return [each.pid for each in children if alive(each.pid) and HOST_MODULE in each.cmdline()]


def one_host(model: Model) -> int:
    """The host of a model, once it has exactly one."""

    def the_one() -> list[int]:
        found = hosts(model.server, model.name)
        return found if len(found) == 1 else []

    return until(the_one, f"one host of {model.name}")[0]


def kill_host(model: Model) -> int:
    """SIGKILL the host of a model, and wait until it has gone; gives back its process."""
    pid = one_host(model)
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    return pid


def meeting_places(server: TorchServe) -> list[Path]:
    """The folders in which members and hosts of a server meet."""
    return sorted(server.tmp.glob("mbh-*"))


def memory_of_members(host: int) -> int:
    """How many pieces of members' memory a host has mapped."""
    maps = Path(f"/proc/{host}/maps").read_text(encoding="utf-8")
    return maps.count("memfd:micro_batch_handler")
