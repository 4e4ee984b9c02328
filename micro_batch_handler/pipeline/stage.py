"""A stage: its inbox, its lanes, its function.

This is the seam behind which "who runs this stage's calls" is hidden: the runner submits tasks and
never sees a thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import LengthError, PayloadError, StageError
from micro_batch_handler.pipeline.batches import MicroBatch, Payload, PayloadOps, Uncuttable

__all__ = ["Keep", "LanePool", "StageFunction", "StageRunner"]

logger = logging.getLogger(__name__)

Keep: TypeAlias = Callable[[], None]
"""Makes the side effects of a call visible; called only if its result counts."""

StageFunction: TypeAlias = Callable[[Any, Sequence[int], Payload], "tuple[Payload, Keep | None]"]
"""(tag of the batch, indices of the requests, payload) -> (result, what to do if it counts)"""

Task: TypeAlias = Callable[[], None]


class LanePool:
    """The lanes of one stage: named daemon threads that take tasks from one inbox.

    Daemon threads, because TorchServe ends a worker with `sys.exit`, which waits for all others.
    An idle lane holds no reference to its tasks' owner, so that a forgotten handler is collected
    and its lanes end.
    """

    def __init__(
        self, name: str, lanes: int, capacity: int, setup: Callable[[], None] | None = None
    ) -> None:
        self._inbox: queue.Queue[Task | None] = queue.Queue(capacity)
        self._threads = [
            threading.Thread(
                target=_work, args=(self._inbox, setup), name=f"mbh-{name}-{lane}", daemon=True
            )
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, self._inbox.put, None)
        self._finalizer.atexit = False  # daemon threads end with the process anyway

    def submit(self, task: Task) -> None:
        """Give a task to the next free lane; waits while the inbox is full. It must not raise."""
        self._inbox.put(task)

    def close(self) -> None:
        """End the lanes once the tasks before are done; a second call does nothing."""
        self._finalizer()
        for thread in self._threads:
            thread.join()

    @property
    def lanes(self) -> int:
        """The number of lanes that are alive."""
        return sum(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """The number of tasks in the inbox; only a glimpse while lanes work."""
        return self._inbox.qsize()


def _work(inbox: queue.Queue[Task | None], setup: Callable[[], None] | None) -> None:
    if setup is not None:
        try:
            setup()
        except BaseException:
            # A lane that ended here would leave its micro-batches waiting for ever.
            logger.exception("setting up %s failed; it works on", threading.current_thread().name)
    while (task := inbox.get()) is not None:
        task()
        del task  # an idle lane must not keep the last batch alive
    inbox.put(None)  # for the next lane


class StageRunner:
    """One stage of a pipeline: checks what goes in and comes out around the user's function."""

    def __init__(self, name: Stage, function: StageFunction, ops: PayloadOps) -> None:
        self.name = name
        self._function = function
        self._ops = ops
        position = STAGES.index(name)
        self._before = STAGES[position - 1] if position else None
        self._last = position == len(STAGES) - 1

    def call(self, tag: Any, micro_batch: MicroBatch) -> tuple[Payload, Keep | None]:
        """Run the function on one micro-batch, in the calling thread.

        Raises:
            PayloadError: what the stage before returned cannot be cut or joined.
            LengthError: the function returned another number of rows than it got.
            StageError: postprocess returned something else than a list.
            BaseException: whatever the function raises.
        """
        try:
            payload = micro_batch.payload(self._ops)
        except Uncuttable as error:
            raise PayloadError(
                self.name,
                f"cannot regroup what {self._before} returned: {error}. Give both stages the same "
                "micro_batch_size, or override cut_payload(payload, start, stop) and "
                "join_payloads(payloads) in the handler",
            ) from None
        result, keep = self._function(tag, micro_batch.indices, payload)
        self._check(result, len(micro_batch.indices))
        return result, keep

    def _check(self, result: Payload, rows: int) -> None:
        if self._last:
            if not isinstance(result, list):
                kind = type(result).__name__
                raise StageError(self.name, f"returned {kind}; it must return a list of answers")
            if len(result) != rows:
                raise LengthError(self.name, rows, len(result))
            return
        found = self._ops.count(result)
        if found is not None and found != rows:
            hint = (
                "a list holds one item a row; return columns as a tuple or a mapping"
                if isinstance(result, list)
                else "the first dimension must be the rows"
            )
            raise LengthError(self.name, rows, found, hint)
