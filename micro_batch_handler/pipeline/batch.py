"""One batch on its way through the stages: which requests are settled, and which calls run.

All state of a batch lives in its own `Batch`, so nothing of one batch can reach another.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.call import Call, CallRecord
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.pipeline.regroup import Regroup, bounds
from micro_batch_handler.pipeline.requests import Requests
from micro_batch_handler.planning.plan import Plan

__all__ = ["LAST", "Batch", "Steps"]

LAST = len(STAGES) - 1
"""The position of the last stage. What starts from its requests passes all stages up to it."""

Steps: TypeAlias = "list[tuple[int, MicroBatch]]"
"""What can be done next: micro-batches, each with the position of the stage that it is to pass."""


class Batch:
    """The state of one batch; every method may be called from any thread.

    Args:
        requests: of the batch.
        plan: the sizes to cut it into; None if its rows pass all stages in one go.
        tag: handed to every stage function.
        deadlines_s: when each request is no longer worth a call, on the pipeline's clock.
        until_s: when no call is made again any more, however it fails; None for any time.
        interruptible: whether calls in the thread that runs the batch can be bounded by an alarm.
    """

    def __init__(
        self,
        requests: Requests,
        plan: Plan | None,
        tag: Any = None,
        deadlines_s: Sequence[float | None] | None = None,
        until_s: float | None = None,
        *,
        interruptible: bool = False,
    ) -> None:
        self.requests = requests
        self.tag = tag
        self.deadlines_s = deadlines_s
        self.until_s = until_s
        self.interruptible = interruptible
        self.thread = threading.current_thread()
        """That runs the batch."""
        self.stopped = False
        """Whether every request was settled at once by `stop`; lanes then leave the rest."""
        self.crowded: Failure | None = None
        """The first call that ran out of memory beside others; what has not begun then waits until
        nothing else of the batch runs."""
        self.finished: threading.Event | None = None
        """Set when every request is settled; None unless lanes work for the batch."""
        self.idle: threading.Event | None = None
        """Set while no lane holds anything of the batch, except those that were given up."""
        self._lanes = 0
        self.plan = plan
        self._lock = threading.Lock()
        self._into = [
            Regroup(len(requests), plan.size(before), plan.size(stage))
            for before, stage in pairwise(STAGES)
            if plan is not None
        ]
        """What collects the rows for each stage but the first."""
        self._answers: list[Any] = [None] * len(requests)
        self._failures: dict[int, Failure] = {}
        self._unsettled = set(range(len(requests)))
        self._aside: list[Failure] = []
        self._judged: list[Failure] = []
        self._running: set[Call] = set()
        self._retried: list[Failure] = []
        self._ended: list[CallRecord] = []
        self._fatal = False

    def first(self) -> Steps:
        """The micro-batches of the first stage, as the plan has them."""
        size = self.plan[0] if self.plan else len(self.requests)
        return [(0, MicroBatch(range(*limit))) for limit in bounds(len(self.requests), size)]

    def regroups(self, position: int) -> bool:
        """Whether what the stage at `position` returns will be cut or joined."""
        return position < len(self._into) and self._into[position].cuts_or_joins

    def expect_lanes(self) -> threading.Event:
        """Lanes are about to work for the batch; what is set when every request is settled."""
        if self.finished is None:
            self.finished, self.idle = threading.Event(), threading.Event()
            self.idle.set()
        return self.finished

    def enter(self) -> None:
        """A lane works for the batch from here on."""
        with self._lock:
            self._lanes += 1
            if self.idle is not None:
                self.idle.clear()

    def leave(self) -> None:
        """A lane holds nothing of the batch any more, or is given up."""
        with self._lock:
            self._lanes -= 1
            if not self._lanes and self.idle is not None:
                self.idle.set()

    def begin(self, call: Call) -> bool:
        """The calling thread is about to call a stage; False if it must not any more."""
        with self._lock:
            if not self.stopped:
                self._running.add(call)
            return not self.stopped

    def end(self, call: Call, record: CallRecord | None) -> bool:
        """The call has returned; False if it was given up, so that its result must not count."""
        with self._lock:
            if call not in self._running:
                return False
            self._running.remove(call)
            if record is not None:
                self._ended.append(record)
            self._finish()
            return True

    def running(self) -> list[Call]:
        """The calls that run now."""
        with self._lock:
            return list(self._running)

    def keep(self, effects: Callable[[], None]) -> None:
        """Make the side effects of a call visible, while the batch's requests are still its own."""
        with self._lock:
            if not self.stopped:
                effects()

    def note_retry(self, failure: Failure) -> None:
        """These requests failed together and are called again."""
        # It is kept for the log; the tensors of its frames are not.
        traceback.clear_frames(failure.error.__traceback__)
        with self._lock:
            self._retried.append(failure)

    def accept(self, position: int, indices: Sequence[int], result: Part) -> Steps:
        """Take a result of the stage at `position`; give back what the next stage can start."""
        with self._lock:
            if self.stopped:
                return []
            if position < len(self._into):
                ready = self._into[position].add(indices, result)
                return [(position + 1, micro_batch) for micro_batch in ready]
            for index, answer in zip(indices, result.payload, strict=True):
                self._answers[index] = answer
            self._settle(indices)
            return []

    def fail(self, position: int, failure: Failure, *, aside: bool = False) -> Steps:
        """These requests end here; give back the micro-batches that waited only for them.

        Args:
            position: where in the pipeline they were; their failure may be one of an earlier stage
                that was repeated.
            failure: of the requests.
            aside: whether they get a last call when nothing else of the batch runs.
        """
        with self._lock:
            if self.stopped:
                return []
            if aside:
                self._aside.append(failure)
            else:
                self._failures.update(dict.fromkeys(failure.indices, failure))
            ready = [
                (later + 1, micro_batch)
                for later in range(position, len(self._into))
                for micro_batch in self._into[later].drop(failure.indices)
            ]
            self._settle(failure.indices)
            return ready

    def take_aside(self) -> list[Failure]:
        """The requests that were set aside; now nothing else of the batch runs."""
        with self._lock:
            aside, self._aside = self._aside, []
            self._judged += aside
            for failure in aside:  # its lane has left these frames, which hold its inputs
                traceback.clear_frames(failure.error.__traceback__)
                self._unsettled.update(failure.indices)
            if aside and self.finished is not None:
                self.finished.clear()
            return aside

    def stop(self, stage: Stage, error: BaseException, *, fatal: bool = False) -> None:
        """End every request that is not settled with this error of a stage.

        With `fatal` this process cannot serve any more batches.
        """
        with self._lock:
            self.stopped = True
            self._fatal = self._fatal or fatal
            for failure in self._aside:
                self._unsettled.update(failure.indices)
            self._aside = []
            rest = sorted(self._unsettled)
            self._failures.update(dict.fromkeys(rest, Failure(stage, error, rest)))
            self._settle(rest)

    def is_late(self, now_s: float) -> bool:
        """Whether nothing may be called again."""
        return self.until_s is not None and now_s >= self.until_s

    def is_expired(self, index: int, now_s: float) -> bool:
        """Whether nobody waits for this request any more."""
        deadline_s = self.deadlines_s[index] if self.deadlines_s else None
        return deadline_s is not None and now_s >= deadline_s

    def outcomes(self) -> Outcomes:
        """What each request ended with, once the batch is finished."""
        judged, self._judged = self._judged, []  # errors hold this batch, in a circle
        rescued = [
            failure
            for failure in judged
            if not any(index in self._failures for index in failure.indices)
        ]
        return Outcomes(
            *(self._answers, self._failures, self._retried, self._fatal, self._ended),
            rescued=rescued,
            stopped=self.stopped,
        )

    def _settle(self, indices: Sequence[int]) -> None:
        self._unsettled.difference_update(indices)
        self._finish()

    def _finish(self) -> None:
        # A batch that was stopped ends when its running calls have, so that none is left without
        # a watch, unless the process ends anyway.
        ended = not self._unsettled and (self._fatal or not self._running)
        if ended and self.finished is not None:
            self.finished.set()
