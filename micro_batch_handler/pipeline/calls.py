"""Calling a stage on a micro-batch, and recovering when the call fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import StageError
from micro_batch_handler.pipeline.batches import MicroBatch
from micro_batch_handler.pipeline.isolation import (
    OUT_OF_MEMORY,
    Policy,
    device_is_lost,
    free_memory,
    retries,
)
from micro_batch_handler.pipeline.memory import Ceiling
from micro_batch_handler.pipeline.payloads import Payload, fingerprint
from micro_batch_handler.pipeline.run import Call, Ready, Run
from micro_batch_handler.pipeline.stage import Keep, StageRunner
from micro_batch_handler.pipeline.watch import Clock, alarm

__all__ = ["Caller", "GivenUp"]

logger = logging.getLogger(__name__)


class GivenUp(BaseException):
    """The call took too long: its requests are answered, and another lane does the rest."""


class _Attempt:
    """One micro-batch on its way through one stage, and how far it came."""

    __slots__ = ("batch", "before", "payload", "position", "run", "stage", "todo")

    def __init__(
        self, run: Run, position: int, batch: MicroBatch, todo: list[MicroBatch], stage: int
    ) -> None:
        self.run = run
        self.position = position
        """The stage that it is to pass."""
        self.batch = batch
        self.todo = todo
        """What the same thread does next."""
        self.stage = stage
        """The stage whose call is being made: that one, or one before it."""
        self.payload: Payload = None
        """What the micro-batch came with, where it did not start from its rows."""
        self.before: tuple[int, ...] | None = None
        """The payload's fingerprint before the call."""


class Caller:
    """Makes the calls of all stages; knows no threads but the one it is called in."""

    def __init__(
        self,
        stages: Sequence[StageRunner],
        policy: Policy,
        stage_timeout_s: float | None,
        clock: Clock,
    ) -> None:
        self._stages = stages
        self._policy = policy
        self._stage_timeout_s = stage_timeout_s
        self._clock = clock
        self._ceilings = [Ceiling() for _ in stages]

    def take(
        self, run: Run, position: int, todo: list[MicroBatch], *, interrupt: bool = False
    ) -> Ready:
        """Take the last micro-batch of `todo` through the stage at `position`.

        What must be called again or is too large for the memory goes back to `todo`, in parts.

        Args:
            run: the batch.
            position: the stage; micro-batches that start from their rows pass those before it too.
            todo: what this thread has to do; a time-out hands it to another lane.
            interrupt: bound the call by an alarm, because nobody else watches this thread.

        Raises:
            GivenUp: nothing may be done for this batch in this thread any more.
        """
        batch, ready = run.leave_expired(position, todo.pop(), self._clock.now_s())
        limit = self._ceilings[position].limit
        if len(batch) > limit:
            todo += reversed(batch.pieces(limit))
            return ready
        if not len(batch):
            return ready
        # Rows that start again pass all stages before this one too.
        attempt = _Attempt(run, position, batch, todo, stage=position if batch.parts else 0)
        try:
            result = self._call_stages(attempt, interrupt=interrupt)
        except GivenUp:
            raise
        except BaseException as error:
            return ready + self._recover(attempt, error)
        return ready + run.accept(position, batch.indices, result)

    def _call_stages(self, attempt: _Attempt, *, interrupt: bool) -> Payload:
        run, batch = attempt.run, attempt.batch
        if batch.parts:
            payload = attempt.payload = self._stages[attempt.stage].gather(batch)
            attempt.before = fingerprint(payload)
        else:
            payload = run.rows(batch.indices)
        while True:
            stage = self._stages[attempt.stage]
            payload, keep = self._call(attempt, stage, payload, interrupt=interrupt)
            last = attempt.stage == attempt.position
            if last and run.regroups(attempt.position):
                stage.check_regroups(payload)
            if keep is not None:
                keep()
            self._ceilings[attempt.stage].worked(len(batch))
            if last:
                return payload
            attempt.stage += 1

    def _call(
        self, attempt: _Attempt, stage: StageRunner, payload: Payload, *, interrupt: bool
    ) -> tuple[Payload, Keep | None]:
        """One call, on the run's list of running calls as long as it takes."""
        timeout_s = self._stage_timeout_s if interrupt else None
        run, batch = attempt.run, attempt.batch
        stage.permits.acquire()
        call = Call(attempt.position, stage.name, batch, attempt.todo, self._clock.now_s())
        run.begin(call)
        try:
            with nullcontext() if timeout_s is None else alarm(stage.name, timeout_s):
                return stage.call(run.tag, batch.indices, payload)
        finally:
            if not self.end(run, call):
                raise GivenUp

    def end(self, run: Run, call: Call) -> bool:
        """The call has returned or is given up; False if it was the other before."""
        counts = run.end(call)
        if counts:
            self._stages[STAGES.index(call.stage)].permits.release()
        return counts

    def _recover(self, attempt: _Attempt, error: BaseException) -> Ready:
        """Let a failed call be repeated in parts, or answer its requests with the error."""
        run, batch = attempt.run, attempt.batch
        stage = self._stages[attempt.stage].name
        ceiling = self._ceilings[attempt.stage]
        out_of_memory = isinstance(error, OUT_OF_MEMORY)
        if out_of_memory:
            free_memory(error)
            if len(batch) > 1:
                ceiling.failed(len(batch), first=not batch.failed_calls)
        lost = device_is_lost(error)
        if lost or not self._policy.isolate:
            run.stop(stage, error, fatal=lost)
            return []
        again = retries(self._policy, batch, error, attempt.payload, attempt.before)
        if not again:
            if out_of_memory and len(batch) == 1:
                ceiling.failed_alone()
            return run.fail(attempt.position, batch.indices, stage, error)
        if batch.planned:
            logger.warning(
                "%s failed on %d requests (%s); calling it again in %d parts",
                stage,
                len(batch),
                error if isinstance(error, StageError) else type(error).__name__,
                len(again),
            )
        attempt.todo += reversed(again)
        return []
