"""The memory of a server's workers, and of the processes that they have started."""

from __future__ import annotations

from contextlib import suppress

import psutil

from harness.torchserve import TorchServe

__all__ = ["memory_bytes", "worker_pids"]

COLLECTOR = "ts/metrics/metric_collector.py"
"""What the frontend runs for a second of each minute, to measure the machine."""


def memory_bytes(server: TorchServe) -> int:
    """What the workers of a server hold, with what they have started; without the frontend.

    A page that several processes use counts in equal parts (PSS), whichever servers they are of:
    figures compare within a run. Where the kernel does not tell, it counts in full (RSS).
    """
    found = 0
    for pid in worker_pids(server):
        with suppress(psutil.Error):
            info = psutil.Process(pid).memory_full_info()
            found += getattr(info, "pss", info.rss)
    return found


def worker_pids(server: TorchServe) -> list[int]:
    """The processes of a server, without the frontend and its launcher.

    A process that has left the server's group, or whose parent has ended, still has the
    environment of the server.
    """
    frontend = server.frontend_pid
    others = {frontend, psutil.Process(frontend).ppid()}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid in others or COLLECTOR in process.cmdline():
                continue
            if process.environ().get("LOG_LOCATION") == str(server.logs):
                found.append(process.pid)
    return sorted(found)
