"""Calling a stage on a micro-batch, and recovering when the call fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import StageError
from micro_batch_handler.pipeline.batches import MicroBatch, Payload, fingerprint
from micro_batch_handler.pipeline.isolation import (
    OUT_OF_MEMORY,
    Policy,
    device_is_lost,
    free_memory,
    retries,
)
from micro_batch_handler.pipeline.memory import Ceiling
from micro_batch_handler.pipeline.run import Call, Ready, Run
from micro_batch_handler.pipeline.stage import StageRunner
from micro_batch_handler.pipeline.watch import Clock, alarm

__all__ = ["Caller", "GivenUp"]

logger = logging.getLogger(__name__)


class GivenUp(BaseException):
    """The call took too long: its requests are answered, and another lane does the rest."""


class _Attempt:
    """How far the calls for one micro-batch came."""

    __slots__ = ("before", "payload", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.payload: Payload = None
        self.before: tuple[int, ...] | None = None


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
        attempt = _Attempt(position)
        try:
            result = self._call(run, position, batch, todo, attempt, interrupt)
        except GivenUp:
            raise
        except BaseException as error:
            return ready + self._recover(run, position, batch, todo, attempt, error)
        return ready + run.accept(position, batch.indices, result)

    def _call(
        self,
        run: Run,
        position: int,
        batch: MicroBatch,
        todo: list[MicroBatch],
        attempt: _Attempt,
        interrupt: bool,
    ) -> Payload:
        payload = None
        for at in range(position if batch.parts else 0, position + 1):
            stage = self._stages[at]
            attempt.position = at
            if payload is None:
                payload = stage.gather(batch) if batch.parts else run.rows(batch.indices)
            if at == position and batch.parts:
                attempt.payload, attempt.before = payload, fingerprint(payload)
            call = Call(position, stage.name, batch, todo, self._clock.now_s())
            run.begin(call)
            try:
                with self._alarm(stage, interrupt):
                    payload, keep = stage.call(run.tag, batch.indices, payload)
            finally:
                counts = run.end(call)
                if not counts:
                    raise GivenUp
            if at == position and run.regroups(position):
                stage.check_regroups(payload)
            if keep is not None:
                keep()
            self._ceilings[at].worked(len(batch))
        return payload

    def _alarm(self, stage: StageRunner, interrupt: bool) -> AbstractContextManager[None]:
        if interrupt and self._stage_timeout_s is not None:
            return alarm(stage.name, self._stage_timeout_s)
        return nullcontext()

    def _recover(
        self,
        run: Run,
        position: int,
        batch: MicroBatch,
        todo: list[MicroBatch],
        attempt: _Attempt,
        error: BaseException,
    ) -> Ready:
        stage = STAGES[attempt.position]
        ceiling = self._ceilings[attempt.position]
        out_of_memory = isinstance(error, OUT_OF_MEMORY)
        if out_of_memory:
            free_memory(error)
            if len(batch) > 1:
                ceiling.failed(len(batch), first=not batch.failed_calls)
        if device_is_lost(error):
            run.stop(stage, error, fatal=True)
            return []
        if not self._policy.isolate:
            run.stop(stage, error)
            return []
        again = retries(self._policy, batch, error, attempt.payload, attempt.before)
        if not again:
            if out_of_memory and len(batch) == 1:
                ceiling.failed_alone()
            return run.fail(position, batch.indices, stage, error)
        if batch.planned:
            logger.warning(
                "%s failed on %d requests (%s); calling it again in %d parts",
                stage,
                len(batch),
                error if isinstance(error, StageError) else type(error).__name__,
                len(again),
            )
        todo += reversed(again)
        return []
