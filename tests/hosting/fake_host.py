"""Stands for the process of a model host: python fake_host.py TASK LOCK LISTENER.

It writes a line to the file that its standard input names, so that starts can be counted.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path


def answer(payload, _contexts):
    """Double the rows; 13 ends the process, and 17 forks it."""
    if (payload == 13).any():
        os._exit(13)
    if (payload == 17).any() and not os.fork():
        while os.getppid() != 1:  # as long as a test may look for it
            time.sleep(0.1)
        time.sleep(30)
        os._exit(0)
    return payload * 2, None


def main() -> None:
    task, lock, listener = sys.argv[1:]
    with Path(sys.stdin.read()).open("a", encoding="utf-8") as starts:
        starts.write(f"{os.getpid()}\n")
    if task == "crash":
        sys.stderr.write("no such library\n")
        sys.stderr.flush()
        os._exit(3)
    serve(task, int(lock), int(listener))


def serve(task: str, lock: int, listener: int) -> None:
    """The rest, which imports much."""
    from micro_batch_handler.hosting.host import Host
    from micro_batch_handler.hosting.host_lane import HostLane
    from micro_batch_handler.pipeline.device.work import NoStreams
    from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN
    from micro_batch_handler.pipeline.watch import Clock

    host = Host(socket.socket(fileno=listener))
    host.let_go_in_children(lock)
    host.start()
    if task == "fail":
        try:
            load()
        except MemoryError as error:
            host.fail(error)
        os._exit(1)
    lane = HostLane("inference", answer, CUT_AND_JOIN, NoStreams(), Clock())
    threading.Thread(target=lambda: watch(host), daemon=True).start()
    host.serve([lane], CUT_AND_JOIN, NoStreams(), None, os.getpid(), copy_in=False)


def load() -> None:
    """Load a model that is too large."""
    raise MemoryError("no memory for the weights")


def watch(host) -> None:
    from micro_batch_handler.hosting.meeting_place import MeetingPlace

    parent = os.getppid()
    host.watch(lambda: "" if os.getppid() == parent else "the test has ended", None)
    MeetingPlace("town").remove()
    os._exit(0)


if __name__ == "__main__":
    main()
