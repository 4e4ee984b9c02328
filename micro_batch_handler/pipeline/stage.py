"""A stage: its inbox, its lanes, its function.

This is the seam behind which "who runs this stage's calls" is hidden: the runner submits tasks and
never sees a thread.
"""

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
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import LengthError, PayloadError, RegroupError, StageError
from micro_batch_handler.pipeline.grouping import Keys, by_constants, keys_made, keys_passed_on
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part, gather
from micro_batch_handler.pipeline.payloads.operations import (
    Payload,
    PayloadOps,
    Uncuttable,
    own,
    pad,
)
from micro_batch_handler.pipeline.records import LANE
from micro_batch_handler.planning.choices import padded

__all__ = ["Keep", "LanePool", "StageFunction", "StageRunner"]

logger = logging.getLogger(__name__)

Keep: TypeAlias = Callable[[], None]
"""Makes the side effects of a call visible; called only if its result counts."""

StageFunction: TypeAlias = Callable[[Any, Sequence[int], Payload], "tuple[Payload, Keep | None]"]
"""(tag of the batch, indices of the requests, payload) -> (result, what to do if it counts)"""

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


HOW_TO_REGROUP = (
    "Give both stages the same micro_batch_size, or override cut_payload(payload, start, stop) and "
    "join_payloads(payloads) in the handler"
)

HOW_TO_FILL = (
    "Remove allowed_sizes, or override cut_payload(payload, start, stop) and "
    "join_payloads(payloads) in the handler"
)


class StageRunner:
    """One stage of a pipeline: checks what goes in and comes out around the user's function."""

    def __init__(
        self,
        name: Stage,
        function: StageFunction,
        ops: PayloadOps,
        lanes: int,
        allowed_sizes: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.permits = Permits(lanes)
        """Held during a call. Not only this stage's lanes call it: where rows start again, those of
        a later stage do. `parallelism` is a promise to functions that stand no more threads."""
        self._function = function
        self._ops = ops
        self._allowed_sizes = allowed_sizes
        position = STAGES.index(name)
        self._before = STAGES[position - 1] if position else None
        self._last = position == len(STAGES) - 1
        self._told_apart = False

    def gather(self, parts: Sequence[Part], why_not: str = "") -> Payload:
        """What the stage before returned for these rows, as one payload.

        Args:
            parts: of it.
            why_not: why it must not be cut or joined, if so.

        Raises:
            RegroupError: it cannot be cut or joined, and the plan or a fault wants it.
        """
        if why_not and (len(parts) > 1 or parts[0].stop - parts[0].start < parts[0].rows):
            raise RegroupError(self.name, f"needs some rows of a call only, but {why_not}")
        try:
            return gather(parts, self._ops)
        except Uncuttable as error:
            raise RegroupError(
                self.name, f"cannot regroup what {self._before} returned: {error}. {HOW_TO_REGROUP}"
            ) from None

    def check_regroups(self, result: Payload) -> None:
        """Refuse a result that the plan wants cut or joined and that cannot be.

        Checked for each call, so that one wrong result does not spoil those it would be joined to.

        Raises:
            PayloadError: it is not made of rows.
        """
        try:
            self._ops.rows_of(result)
        except Uncuttable as error:
            raise PayloadError(
                self.name, f"returned what cannot be regrouped: {error}. {HOW_TO_REGROUP}"
            ) from None

    @property
    def groups(self) -> bool:
        """Whether later stages are called apart for rows of different kinds."""
        return self._ops.group_by is not None

    def apart(self, batch: MicroBatch) -> list[MicroBatch]:
        """The same rows, those whose payloads cannot be joined apart; said once."""
        groups, where = by_constants(batch, self._ops)
        if where and not self._told_apart:
            self._told_apart = True
            logger.warning(
                "%s is called apart for rows of different calls of %s, since %s of what that "
                "returned is no row and differs from call to call. Return it for each row, in a "
                "list or tensor, or override join_payloads(payloads) and cut_payload(payload, "
                "start, stop) to have calls of the size that is set",
                self.name,
                self._before,
                where,
            )
        return groups

    def keys(self, result: Payload, parts: Sequence[Part], rows: int) -> Keys:
        """Which rows of a result may share a call of the next stage; see grouping.py."""
        if self._ops.group_by is None:
            return None
        if self._before is not None:
            return keys_passed_on(parts, rows)
        return keys_made(self._ops.group_by, self.name, result, rows)

    def size(self, rows: int) -> int:
        """The rows that its function is called with for so many."""
        return padded(rows, self._allowed_sizes)

    def call(
        self, tag: Any, indices: Sequence[int], payload: Payload, *, counted: bool = True
    ) -> tuple[Payload, Keep | None]:
        """Run the function on the rows of the requests at `indices`, in the calling thread.

        Args:
            tag: of the batch.
            indices: of the requests.
            payload: what the stage takes for them.
            counted: whether the result must be so many rows. Of a batch that is not cut only the
                answers are counted: what its stages hand on may be anything.

        Raises:
            LengthError: the function returned another number of rows than it got.
            PayloadError: what goes in or comes out cannot be filled up to an allowed size.
            StageError: postprocess returned something else than a list.
            BaseException: whatever the function raises.
        """
        rows = len(indices)
        # With allowed sizes the result may be a CUDA graph's, which the next call overwrites while
        # postprocess reads it; and what fills it up need not be kept in memory.
        size = self.size(rows)
        if size == rows:
            result, keep = self._function(tag, indices, payload)
            if counted or self._last:
                self._check(result, rows)
            return (own(result) if self._allowed_sizes else result), keep
        try:
            filled = pad(payload, rows, size, self._ops)
            result, keep = self._function(tag, indices, filled)
            self._check(result, size)
            return own(self._ops.cut(result, 0, rows)), keep
        except Uncuttable as error:
            raise PayloadError(
                self.name, f"cannot be filled up to {size} rows: {error}. {HOW_TO_FILL}"
            ) from None

    def misread(self, result: Payload, rows: int) -> LengthError | None:
        """The error of a result that is not so many rows; None if it is, or cannot be counted."""
        found = self._ops.count(result)
        if found is None or found == rows:
            return None
        hint = (
            "a list holds one item a row; return columns as a tuple or a mapping"
            if isinstance(result, list)
            else "the first dimension must be the rows"
        )
        return LengthError(self.name, rows, found, hint)

    def _check(self, result: Payload, rows: int) -> None:
        if self._last:
            if not isinstance(result, list):
                kind = type(result).__name__
                raise StageError(self.name, f"returned {kind}; it must return a list of answers")
            if len(result) != rows:
                raise LengthError(self.name, rows, len(result))
            return
        error = self.misread(result, rows)
        if error is not None:
            raise error
