"""Taking a micro-batch through a stage: the one way of all calls, in lanes and inline.

admission.before_call   the rows that must not be called now, or not together
for each stage that the rows have to pass:
  _Running              a permit of the stage; on the batch's list, which the watch reads
  StageMethod.call      the method, and the checks around it
batch.accept            only if no call was given up meanwhile
recovery.after_fault    what is called instead
"""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import DeadlinePassed, LengthError
from micro_batch_handler.pipeline.admission import Admission
from micro_batch_handler.pipeline.batch import Batch, Steps
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.memory import MemoryLimits
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.recovery import Recovery
from micro_batch_handler.pipeline.requests import Unreadable
from micro_batch_handler.pipeline.stage import StageMethod
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Executor", "GivenUp"]


class GivenUp(BaseException):
    """The call took too long: its requests are answered, and another lane does the rest."""


class _BatchEnded(BaseException):
    """The batch has ended while this thread was about to make a call."""


class Executor:
    """Takes micro-batches through stages, in the thread that it is called in.

    Args:
        stages: in order.
        admission: tells which rows a call may have.
        recovery: tells what to call after a fault.
        memory: is told of the calls that had enough.
        clock: the time.
    """

    def __init__(
        self,
        stages: Sequence[StageMethod],
        admission: Admission,
        recovery: Recovery,
        memory: MemoryLimits,
        clock: Clock,
    ) -> None:
        self._stages = stages
        self._admission = admission
        self._recovery = recovery
        self._memory = memory
        self._clock = clock

    def execute_all(self, batch: Batch, steps: Steps) -> None:
        """What lanes do, in the calling thread: steps, and all that follows from them."""
        todo = steps[::-1]
        while todo and not batch.stopped:
            position, micro_batch = todo.pop()
            try:
                todo += reversed(self.execute(batch, position, micro_batch, []))
            except BaseException as error:
                batch.stop(STAGES[position], error)

    def execute(
        self, batch: Batch, position: int, micro_batch: MicroBatch, rest: list[MicroBatch]
    ) -> Steps:
        """Take a micro-batch through the stage at `position`.

        Rows that start from their requests pass the stages before it too.

        Args:
            batch: that it is a part of.
            position: of the stage.
            micro_batch: its rows.
            rest: what this thread is going to do next; after a time-out another lane does it.

        Returns:
            What can be done next. Steps of the same position are what is called instead: parts of
            the micro-batch, or all of it once the steps before have been handed on.

        Raises:
            GivenUp: nothing may be done for this batch in this thread any more.
        """
        instead = self._admission.before_call(batch, position, micro_batch)
        if instead is not None:
            return instead
        parts, misread = micro_batch.parts, None
        try:
            for called in range(position if parts else 0, position + 1):
                call = Call(called, position, micro_batch, parts, rest, batch.thread)
                parts = ()  # only call and micro-batch hold them, which recovery lets go of
                if called and micro_batch.serial and batch.deadlines_s:
                    self._refuse_expired(batch, call)
                with _Running(self, batch, call):
                    call.parts, keep = self._stages[called].call(batch, call)
                if keep is not None:
                    batch.keep(keep)
                self._memory.worked(called, len(micro_batch), alone=micro_batch.serial)
                if micro_batch.serial and called < position and not misread:
                    result = call.parts[0].payload
                    misread = self._stages[called].misread(result, len(micro_batch))
                    del result
                parts = call.parts
        except GivenUp:
            raise
        except _BatchEnded:
            return []
        except LengthError as error:
            # The fault is where rows were lost first.
            return self._recovery.after_fault(batch, call, misread or error)
        except BaseException as error:
            # With another name the error would hold itself by this frame, and all that this holds.
            return self._recovery.after_fault(batch, call, error)
        return batch.accept(position, micro_batch.indices, parts[0])

    def _refuse_expired(self, batch: Batch, call: Call) -> None:
        """Stop between two stages if the deadlines of all rows have passed.

        Raises:
            DeadlinePassed: all have.
        """
        now_s = self._clock.now_s()
        if all(batch.is_expired(index, now_s) for index in call.micro_batch.indices):
            raise DeadlinePassed(call.stage)

    def begin(self, batch: Batch, call: Call) -> bool:
        """A call waits for a permit and begins; False if it must not any more."""
        permits = self._stages[call.called].permits
        permits.acquire()
        call.began_s = self._clock.now_s()
        begins = batch.begin(call)
        if not begins:
            permits.release()
        return begins

    def end(self, batch: Batch, call: Call, *, failed: bool, recorded: bool = True) -> bool:
        """End a call; False if it has ended or was given up before.

        Args:
            batch: whose call it is.
            call: that ends.
            failed: whether its result must not count.
            recorded: False if nothing was called, since its requests could not be decoded.
        """
        ended_s = self._clock.now_s()
        record = call.record(ended_s, failed=failed) if recorded else None
        counts = batch.end(call, record)
        if counts:
            if recorded:
                call.micro_batch.ready_s = ended_s  # for the stage after it, or for another try
            self._stages[call.called].permits.release()
        return counts


class _Running:
    """A call that runs, as a `with` statement around it."""

    __slots__ = ("_batch", "_call", "_executor")

    def __init__(self, executor: Executor, batch: Batch, call: Call) -> None:
        self._executor = executor
        self._batch = batch
        self._call = call

    def __enter__(self) -> None:
        if not self._executor.begin(self._batch, self._call):
            raise _BatchEnded

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed, recorded = kind is not None, kind is not Unreadable
        if not self._executor.end(self._batch, self._call, failed=failed, recorded=recorded):
            raise GivenUp
