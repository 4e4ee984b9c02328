"""One batch on its way through the stages: what is settled, what can start, which calls run.

Nothing of one batch can reach another, since all its state lives in its own `Run`.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import BatchTimeout, DeadlinePassed
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.records import INLINE, LANE, CallRecord
from micro_batch_handler.pipeline.regroup import Regroup, bounds
from micro_batch_handler.pipeline.requests import Rows
from micro_batch_handler.planning.plans import Plan

__all__ = ["Call", "Failure", "Outcomes", "Ready", "Run"]


@dataclass(frozen=True, eq=False)
class Failure:
    """Why some requests have no answer."""

    stage: Stage
    error: BaseException
    indices: Sequence[int]
    """The requests that failed together, as places in the batch."""


@dataclass(frozen=True)
class Outcomes:
    """What each request of a batch ended with, by its place in the batch."""

    answers: list[Any]
    """One entry a request; meaningless where the request failed."""

    failures: dict[int, Failure]

    retried: list[Failure]
    """Calls that failed and were made again in parts; some of their requests may be answered."""

    fatal: bool = False
    """Whether this process cannot serve any more: its device or too many of its lanes are lost."""

    calls: Sequence[CallRecord] = ()
    """The calls that were made, in the order in which they ended."""

    rescued: Sequence[Failure] = ()
    """Requests that failed in parts of the batch, and were answered by a call for themselves."""

    stopped: bool = False
    """Whether one fault has ended all of the batch that had not ended before."""


Ready: TypeAlias = "list[tuple[int, MicroBatch]]"
"""Micro-batches that can start, each with the position of its stage."""


class Call:
    """One call of one stage that is running now."""

    __slots__ = ("batch", "before_s", "position", "ready_s", "rest", "stage", "started_s", "thread")

    def __init__(
        self,
        position: int,
        stage: Stage,
        batch: MicroBatch,
        rest: list[MicroBatch],
        started_s: float,
        before_s: float = 0.0,
    ) -> None:
        self.position = position
        """The stage that the rows are to pass."""
        self.stage = stage
        """What it calls: that stage, or an earlier one if the rows start again."""
        self.batch = batch
        self.rest = rest
        """What the same lane was going to call next; somebody must, if it hangs."""
        self.started_s = started_s
        self.before_s = before_s
        """How long its thread had worked for it before it started."""
        self.ready_s = started_s if batch.ready_s is None else batch.ready_s
        self.thread = threading.current_thread()

    def record(self, ended_s: float, *, failed: bool) -> CallRecord:
        """What is kept of it."""
        began_s = self.started_s - self.before_s
        return CallRecord(
            self.stage,
            self.batch.indices,
            self.thread.name if self.thread.name.startswith(LANE) else INLINE,
            min(self.ready_s, began_s),  # a call made again is ready when its thread turns to it
            began_s,
            ended_s,
            failed,
        )


class Run:
    """The state of one batch; every method may be called from any thread."""

    def __init__(
        self,
        rows: Rows,
        plan: Plan,
        tag: Any,
        deadlines_s: Sequence[float | None] | None = None,
        calls: Sequence[CallRecord] = (),
        until_s: float | None = None,
    ) -> None:
        self.tag = tag
        self.until_s = until_s
        """When no call is made again any more, however it fails; None for any time."""
        self.finished = threading.Event()
        self.idle = threading.Event()
        """Set while no lane works for the batch, but those that were given up: only then do lanes
        hold nothing of it."""
        self.idle.set()
        self._lanes = 0
        self.crowded: Failure | None = None
        """The first call that ran out of memory beside others; what has not begun then waits until
        nothing else of the batch runs."""
        self.stopped = False
        """Whether every request was settled at once by `stop`; lanes then leave the rest."""
        self.rows = rows
        self._plan = plan
        self._deadlines_s = deadlines_s
        self._lock = threading.Lock()
        self._into = [
            Regroup(len(rows), plan.sizes[before], plan.sizes[stage])
            for before, stage in pairwise(STAGES)
        ]
        self._answers: list[Any] = [None] * len(rows)
        self._failures: dict[int, Failure] = {}
        self._unsettled = set(range(len(rows)))
        self._aside: list[Failure] = []
        self._judged: list[Failure] = []
        self._calls: set[Call] = set()
        self._retried: list[Failure] = []
        self._ended = list(calls)
        self._fatal = False

    def first(self) -> Ready:
        """The micro-batches of the first stage."""
        size = self._plan.sizes[STAGES[0]]
        return [(0, MicroBatch(range(*limit))) for limit in bounds(len(self.rows), size)]

    def regroups(self, position: int) -> bool:
        """Whether what the stage at `position` returns will be cut or joined."""
        return position < len(self._into) and self._into[position].cuts_or_joins

    def enter(self) -> None:
        """A lane works for the batch from here on."""
        with self._lock:
            self._lanes += 1
            self.idle.clear()

    def leave(self) -> None:
        """A lane holds nothing of the batch any more, or is given up."""
        with self._lock:
            self._lanes -= 1
            if not self._lanes:
                self.idle.set()

    def begin(self, call: Call) -> bool:
        """The calling thread is about to call a stage; False if it must not any more."""
        with self._lock:
            if not self.stopped:
                self._calls.add(call)
            return not self.stopped

    def end(self, call: Call, ended_s: float = 0.0, *, failed: bool = False) -> bool:
        """The call has returned; False if it was given up, so that its result must not count."""
        with self._lock:
            if call not in self._calls:
                return False
            self._calls.remove(call)
            self._ended.append(call.record(ended_s, failed=failed))
            self._settle(())
            return True

    def keep(self, effects: Callable[[], None]) -> None:
        """Make the side effects of a call visible, while the batch's requests are still its own."""
        with self._lock:
            if not self.stopped:
                effects()

    def note_retry(self, stage: Stage, error: BaseException, indices: Sequence[int]) -> None:
        """These requests failed together and are called again."""
        traceback.clear_frames(error.__traceback__)  # it is kept for the log, its tensors are not
        with self._lock:
            self._retried.append(Failure(stage, error, indices))

    def calls(self) -> list[Call]:
        """The calls that run now."""
        with self._lock:
            return list(self._calls)

    def accept(self, position: int, indices: Sequence[int], result: Part) -> Ready:
        """Take a result of the stage at `position`; give back what the next stage can start."""
        with self._lock:
            if self.stopped:
                return []
            if position < len(self._into):
                ready = self._into[position].add(indices, result)
                return [(position + 1, batch) for batch in ready]
            for index, answer in zip(indices, result.payload, strict=True):
                self._answers[index] = answer
            self._settle(indices)
            return []

    def fail(
        self, position: int, indices: Sequence[int], stage: Stage, error: BaseException
    ) -> Ready:
        """These requests end here; give back the micro-batches that waited only for them.

        Args:
            position: where in the pipeline they were.
            indices: the requests.
            stage: which stage's call failed: that one, or an earlier one that was repeated.
            error: what it failed with.
        """
        failure = Failure(stage, error, indices)
        with self._lock:
            if self.stopped:
                return []
            self._failures.update(dict.fromkeys(indices, failure))
            ready = self._drop(position, indices)
            self._settle(indices)
            return ready

    def set_aside(
        self, position: int, indices: Sequence[int], stage: Stage, error: BaseException
    ) -> Ready:
        """These requests wait for a last call, which is made when nothing else of the batch runs.

        Arguments and result are those of `fail`.
        """
        with self._lock:
            if self.stopped:
                return []
            self._aside.append(Failure(stage, error, indices))
            ready = self._drop(position, indices)
            self._settle(indices)
            return ready

    def take_aside(self) -> list[Failure]:
        """The requests that were set aside; now nothing else of the batch runs."""
        with self._lock:
            aside, self._aside = self._aside, []
            self._judged += aside
            for failure in aside:  # its lane has left these frames, which hold what it took in
                traceback.clear_frames(failure.error.__traceback__)
            self._unsettled.update(index for failure in aside for index in failure.indices)
            if aside:
                self.finished.clear()
            return aside

    def stop(self, stage: Stage, error: BaseException, *, fatal: bool = False) -> None:
        """End every request that is not settled with this error.

        Args:
            stage: whose call it comes from.
            error: the outcome.
            fatal: whether this process cannot serve any more batches.
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

    def leave_early(
        self, position: int, batch: MicroBatch, now_s: float
    ) -> tuple[MicroBatch, Ready]:
        """Take out the requests whose deadline has passed; what is left, and what that frees.

        All of them, if they would be called again and no time is left for that, or if memory has
        run out: what is under way lets go of its own then, and nothing else begins.
        """
        if self.crowded is not None and not (batch.parts or batch.serial):
            failure = self.crowded
            ready = self.set_aside(position, batch.indices, failure.stage, failure.error)
            return batch.only([]), ready
        stage = STAGES[position if batch.parts else 0]
        if (batch.failed or batch.serial) and self.is_late(now_s):
            return batch.only([]), self.fail(position, batch.indices, stage, BatchTimeout(stage))
        if self._deadlines_s is None:
            return batch, []
        places = [
            place
            for place, index in enumerate(batch.indices)
            if (deadline_s := self._deadlines_s[index]) is None or now_s < deadline_s
        ]
        if len(places) == len(batch):
            return batch, []
        left = batch.only(places)
        left.planned = batch.planned
        gone = [index for index in batch.indices if index not in left.indices]
        return left, self.fail(position, gone, stage, DeadlinePassed(stage))

    def is_late(self, now_s: float) -> bool:
        """Whether nothing may be called again."""
        return self.until_s is not None and now_s >= self.until_s

    def is_expired(self, batch: MicroBatch, now_s: float) -> bool:
        """Whether nobody waits for any of these rows any more."""
        return self._deadlines_s is not None and all(
            (deadline_s := self._deadlines_s[index]) is not None and now_s >= deadline_s
            for index in batch.indices
        )

    def leave_unreadable(
        self, position: int, batch: MicroBatch
    ) -> tuple[MicroBatch, list[Any], Ready]:
        """Take out the requests whose row cannot be decoded, for which nothing is called.

        Gives back what is left, its rows, and the micro-batches that waited only for the others.
        """
        rows, errors = self.rows.take(batch.indices)
        if not errors:
            return batch, rows, []
        left = batch.only([at for at, index in enumerate(batch.indices) if index not in errors])
        left.planned = batch.planned
        ready: Ready = []
        for index, error in errors.items():
            ready += self.fail(position, [index], STAGES[0], error)
        return left, rows, ready

    def outcomes(self) -> Outcomes:
        """What each request ended with, once the run is finished."""
        judged, self._judged = self._judged, []  # errors hold this run, in a circle
        rescued = [
            failure
            for failure in judged
            if not any(index in self._failures for index in failure.indices)
        ]
        return Outcomes(
            self._answers,
            self._failures,
            self._retried,
            self._fatal,
            self._ended,
            rescued,
            self.stopped,
        )

    def _drop(self, position: int, indices: Sequence[int]) -> Ready:
        return [
            (later + 1, batch)
            for later in range(position, len(self._into))
            for batch in self._into[later].drop(indices)
        ]

    def _settle(self, indices: Sequence[int]) -> None:
        self._unsettled.difference_update(indices)
        # A batch that was stopped ends when its running calls have, so that none is left without
        # a watch, unless the process ends anyway.
        if not self._unsettled and (self._fatal or not self._calls):
            self.finished.set()
