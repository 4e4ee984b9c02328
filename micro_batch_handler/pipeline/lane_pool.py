"""The lanes of a stage: threads that take tasks from one inbox."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeAlias

from micro_batch_handler.pipeline.call import LANE

__all__ = ["LanePool", "Permits"]

logger = logging.getLogger(__name__)

PATIENCE_S = 10
"""How long closing waits for one lane."""

EXIT_PATIENCE_S = 2.0
"""How long the end of the process waits for all lanes; those that work on are left behind."""

Task: TypeAlias = Callable[[], bool]
"""What a lane does next; False if the lane was replaced meanwhile and must end."""


class LanePool:
    """The lanes of one stage: named daemon threads that take tasks from one inbox.

    Daemon threads, because TorchServe ends a worker with `sys.exit`, which waits for all others,
    and a lane may hang. An idle lane holds no reference to its tasks' owner, so that a forgotten
    handler is collected and its lanes end.
    """

    def __init__(
        self, name: str, lanes: int, capacity: int | None, setup: Callable[[], None] | None = None
    ) -> None:
        self._inbox = _Inbox(capacity)
        self._setup = setup
        self._lost: list[threading.Thread] = []
        self._paused = 0
        self._pausing = threading.Lock()
        self._threads = [self._start(f"{LANE}{name}-{lane}") for lane in range(lanes)]
        self._finalizer = weakref.finalize(self, self._inbox.end)
        self._finalizer.atexit = False  # see _end_all
        _pools.add(self)

    def submit(self, task: Task, *, wait: bool = True) -> None:
        """Give a task to the next free lane; it must not raise.

        Args:
            task: what the lane does.
            wait: while the inbox is full. A lane of a later stage must not: an earlier one may be
                waiting for it.
        """
        self._inbox.put(task, wait=wait)

    def use(self, lanes: int) -> None:
        """Let so many lanes take the tasks that are submitted from now on; the others wait."""
        with self._pausing:
            more = max(0, len(self._threads) - lanes) - self._paused
            self._paused += more
            self._inbox.pause(more)

    def __contains__(self, thread: threading.Thread) -> bool:
        return thread in self._threads

    def replace(self, thread: threading.Thread, task: Task) -> None:
        """Start a new lane for one that hangs; it does `task` first."""
        self._threads.remove(thread)
        self._lost.append(thread)
        self._threads.append(self._start(thread.name, task))

    def close(self) -> None:
        """End the lanes once the tasks before are done; a second call does nothing.

        Waits for them, but not long for one that hangs: it ends with the process.
        """
        self.end()
        for thread in list(self._threads):
            thread.join(PATIENCE_S)

    def end(self) -> None:
        """Let the lanes end once the tasks before are done."""
        self._finalizer()

    def join(self, until_s: float) -> None:
        """Wait for the lanes, at most until this moment of the monotonic clock."""
        for thread in list(self._threads):
            thread.join(max(0.0, until_s - time.monotonic()))

    @property
    def lanes(self) -> int:
        """The number of lanes that work or wait for work."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def lost(self) -> int:
        """The number of lanes that were replaced and still hang."""
        self._lost = [thread for thread in self._lost if thread.is_alive()]
        return len(self._lost)

    @property
    def waiting(self) -> int:
        """The number of tasks in the inbox; only a glimpse while lanes work."""
        return self._inbox.waiting

    def _start(self, name: str, task: Task | None = None) -> threading.Thread:
        # In a list that the lane empties: a thread keeps its arguments as long as it lives.
        first = [] if task is None else [task]
        arguments = (self._inbox, self._setup, first)
        thread = threading.Thread(target=_work, args=arguments, name=name, daemon=True)
        thread.start()
        return thread


class Permits:
    """A semaphore in C: `threading.Semaphore` takes its microseconds twice a call."""

    def __init__(self, permits: int) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(permits):
            self._free.put(None)

    def acquire(self) -> None:
        """Wait for a permit."""
        self._free.get()

    def release(self) -> None:
        """Give it back."""
        self._free.put(None)


_pools: weakref.WeakSet[LanePool] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End all lanes while the interpreter still runs, and leave behind those that work on."""
    pools = list(_pools)
    for pool in pools:
        pool.end()
    until_s = time.monotonic() + EXIT_PATIENCE_S
    for pool in pools:
        pool.join(until_s)
    # Not the pools' own lanes only: replaced ones and those of forgotten handlers may work too.
    if any(thread.name.startswith(LANE) for thread in threading.enumerate()):
        _leave_behind()


def _leave_behind() -> None:
    """Let threads that are inside C++ when the interpreter ends hang there, not abort the process.

    When such a thread comes back to Python, CPython ends it with an unwinding that PyTorch's C++
    does not let through: `std::terminate` is called, which aborts. From 3.14 on CPython lets the
    thread hang instead (https://github.com/python/cpython/issues/87135), and so does `pause` as
    the handler of `std::terminate`. The exit status and all other exit handlers stay as they are.
    """
    if sys.platform != "linux" or sys.version_info >= (3, 14):
        return
    try:
        cpp = ctypes.CDLL("libstdc++.so.6", mode=os.RTLD_NOLOAD)
    except OSError:
        return  # no C++ in this process
    pause = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)
    cpp["_ZSt13set_terminatePFvvE"](pause)  # std::set_terminate


_Entry: TypeAlias = "tuple[Task | None, Permits | None]"
"""A task, None for the end, and where the room that it takes is to be given back."""


class _Inbox:
    """Tasks for the lanes; at most `capacity`, or any number where that is None."""

    def __init__(self, capacity: int | None) -> None:
        # Not queue.Queue, which is bounded by itself: its lock is not reentrant, and `end` may be
        # called by the garbage collector in any thread, a lane inside `get` too.
        self._tasks: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._room = None if capacity is None else Permits(capacity)
        self._resumes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def pause(self, lanes: int) -> None:
        """Let so many lanes wait that come for a task from now on; fewer than none go on."""
        for _ in range(lanes):
            self._tasks.put((self._wait_in_lane, None))
        for _ in range(-lanes):
            self._resumes.put(None)

    def _wait_in_lane(self) -> bool:
        self._resumes.get()
        return True

    def put(self, task: Task, *, wait: bool) -> None:
        room = self._room if wait else None
        if room is not None:
            room.acquire()
        self._tasks.put((task, room))

    def get(self) -> Task | None:
        """The next task; None when there will be no more."""
        task, room = self._tasks.get()
        if task is None:
            self.end()  # for the next lane
        elif room is not None:
            room.release()
        return task

    def end(self) -> None:
        self._tasks.put((None, None))
        self._resumes.put(None)  # a lane that waits takes the end next

    @property
    def waiting(self) -> int:
        return self._tasks.qsize()


def _work(inbox: _Inbox, setup: Callable[[], None] | None, first: list[Task]) -> None:
    if setup is not None:
        try:
            setup()
        except BaseException:
            # A lane that ended here would leave its micro-batches waiting for ever.
            logger.exception("setting up %s failed; it works on", threading.current_thread().name)
    task = first.pop() if first else inbox.get()
    while task is not None:
        if not task():
            return
        task = None  # an idle lane must not keep the last batch alive
        task = inbox.get()
