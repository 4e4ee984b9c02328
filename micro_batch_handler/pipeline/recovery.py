"""What to call after a fault: halves, down to single requests.

    call on 8 rows fails            row 5 is guilty
      call on 4 rows                answered
      call on 4 rows fails
        call on 2 rows fails
          call on 1 row fails       row 5 gets the error
          call on 1 row             answered
        call on 2 rows              answered

At most about 2 k (log2 n + 1) calls for k guilty of n rows. A row that two calls on it alone have
failed, the second from its request on, is set aside: so a fault that does not repeat leaves nobody
failed, and neither does what a neighbour has done to a shared payload. When nothing else of the
batch runs, it passes all stages once more, as TorchServe would call them, and mostly in the thread
that was handed the batch. Only what fails there has failed: a client never pays for what fails only
in a lane, or only beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import (
    DeadlinePassed,
    HostLost,
    HostMissing,
    LengthError,
    PayloadError,
    RegroupError,
    SplitError,
    StageTimeout,
)
from micro_batch_handler.pipeline.admission import without_failed
from micro_batch_handler.pipeline.batch import Batch, Steps
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.device.device_errors import device_is_lost, is_out_of_memory
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.memory import MemoryLimits, free_memory
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.outcomes import Failure
from micro_batch_handler.pipeline.requests import Unreadable
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Policy", "Recovery", "inspectable", "is_misread", "retries"]

FINAL = (StageTimeout, HostLost, HostMissing)
"""Errors after which a row that failed alone gets no last call: that would cost as much again."""


@dataclass(frozen=True)
class Policy:
    """How faults are met."""

    isolate: bool = True
    """False: a failed call is not repeated."""

    deliberate: tuple[type[BaseException], ...] = ()
    """Errors by which a stage answers one request on purpose; alone, it is not called again."""

    repeats: Callable[[Any, Sequence[int]], bool] = lambda _tag, _indices: True
    """Whether these requests of the batch with this tag may be called again."""


class Recovery:
    """Answers the requests of a call that failed with its error, or has them called again.

    Args:
        policy: how faults are met.
        memory: is told of calls that had not enough.
        streams: of the device that the stages use.
        clock: the time.
    """

    def __init__(
        self, policy: Policy, memory: MemoryLimits, streams: Streams | NoStreams, clock: Clock
    ) -> None:
        self._policy = policy
        self._memory = memory
        self._streams = streams
        self._clock = clock

    def after_fault(self, batch: Batch, call: Call, error: BaseException) -> Steps:
        """What can be done next after a call that failed.

        Steps of the call's own position are what is called instead.
        """
        error = inspectable(error)
        if isinstance(error, Unreadable):
            failures = [Failure(STAGES[0], why, [at]) for at, why in error.errors.items()]
            return without_failed(batch, call.position, call.micro_batch, failures)
        micro_batch = call.micro_batch
        failure = Failure(call.stage, error, micro_batch.indices)
        lost = device_is_lost(error)
        if lost:
            self._streams.keep_all()
        # A host may be lost by others' rows, for which nobody has to pay.
        stops = not self._policy.isolate and (micro_batch.failed or not isinstance(error, HostLost))
        if lost or isinstance(error, SplitError) or stops:
            batch.stop(call.stage, error, fatal=lost)
            return []
        if not self._policy.repeats(batch.tag, micro_batch.indices):
            return batch.fail(call.position, failure)
        return self._again(batch, call, failure)

    def last_calls(
        self, batch: Batch, aside: Sequence[Failure]
    ) -> list[tuple[MicroBatch, Failure]]:
        """The last calls for requests that were set aside, and with what they failed before.

        Nothing may run any more: all memory is made free that can be.
        """
        errors = (failure.error for failure in aside)
        if error := next(filter(is_out_of_memory, errors), None):
            if batch.idle is not None:
                self._clock.wait(batch.idle)
            free_memory(error, self._streams.release)
            del error  # it holds frames
        return _verdicts(aside)

    def _again(self, batch: Batch, call: Call, failure: Failure) -> Steps:
        """The calls that are made instead, as long as there is time and memory for them."""
        micro_batch, error = call.micro_batch, failure.error
        late = batch.is_late(self._clock.now_s())
        again = [] if late else retries(self._policy, micro_batch, error)
        # The frames of this thread, which the error holds by its traceback, hold both. What the
        # call took in must not stay in memory beside what is called again.
        micro_batch.parts = call.parts = ()
        if is_out_of_memory(error):
            self._free(batch, call, error)
            if not (late or micro_batch.serial):
                # Others hold memory: only with nothing beside it can be seen what fits.
                batch.note_retry(failure)
                batch.crowded = batch.crowded or failure
                return batch.fail(call.position, failure, aside=True)
        if again:
            if micro_batch.planned:
                batch.note_retry(failure)
            return [(call.position, piece) for piece in again]
        if not (late or micro_batch.serial or isinstance(error, FINAL)):
            return batch.fail(call.position, failure, aside=True)
        if is_out_of_memory(error) and len(micro_batch) == 1:
            self._memory.fits_nowhere(call.called, beside=batch.crowded is not None)
        return batch.fail(call.position, failure)

    def _free(self, batch: Batch, call: Call, error: BaseException) -> None:
        """Give back the memory that a failed call held, and remember how much it needed."""
        rows, alone = len(call.micro_batch), call.micro_batch.serial
        # A row that fails with nothing beside it is judged by its next call.
        free_memory(error, self._streams.release, thorough=alone and rows == 1)
        first = not call.micro_batch.failed if alone else batch.crowded is None
        self._memory.failed(call.called, rows, alone=alone, first=first)


def retries(  # noqa: PLR0911  (a case each)
    policy: Policy, micro_batch: MicroBatch, error: BaseException
) -> list[MicroBatch]:
    """The micro-batches to call instead of one that failed; none if the error is its outcome."""
    if isinstance(error, (StageTimeout, DeadlinePassed, HostMissing)):
        return []
    if isinstance(error, HostLost):
        return _after_lost_host(micro_batch)
    if isinstance(error, RegroupError):
        return _parts_again(micro_batch)
    if not micro_batch.serial and is_misread(error):
        return []  # smaller calls would be read no better
    if len(micro_batch) > 1:
        # From their requests on: the failed call may have changed what it was called with, and
        # not every change can be seen.
        return micro_batch.again().pieces(_half(micro_batch))
    # The second call begins with the request: a payload that others share may be bad because of
    # them (padded to the longest, say).
    if micro_batch.failed_alone or isinstance(error, policy.deliberate):
        return []
    return [micro_batch.again(failed_alone=True)]


def _after_lost_host(micro_batch: MicroBatch) -> list[MicroBatch]:
    """Single rows, since halves would cost a host each; a row ends that loses a second one alone.

    The first may have ended for any reason, and a fault of the row's own is told apart from that.
    """
    if len(micro_batch) > 1:
        return micro_batch.again().pieces(1)
    if micro_batch.lost_alone:
        return []
    return [micro_batch.again(failed_alone=micro_batch.failed_alone, lost_alone=True)]


def _verdicts(aside: Sequence[Failure]) -> list[tuple[MicroBatch, Failure]]:
    """The last calls for requests that were set aside, and with what they failed before.

    Those whose payloads could not be read as rows pass together: a payload that is not cut need
    not be read. So do those for which there was no memory, which is theirs alone now.
    """
    misread = [failure for failure in aside if is_misread(failure.error)]
    crowded = [failure for failure in aside if is_out_of_memory(failure.error)]
    last = []
    for failures in (misread, crowded):
        if failures:
            together = sorted(index for failure in failures for index in failure.indices)
            again = MicroBatch(together, failed=failures is misread, serial=True)
            last.append((again, failures[0]))
    for failure in aside:
        if failure not in misread and failure not in crowded:
            alone = len(failure.indices) == 1
            again = MicroBatch(failure.indices, failed=True, failed_alone=alone, serial=True)
            last.append((again, failure))
    return last


def is_misread(error: BaseException) -> bool:
    """Whether a stage returned what could not be read as the rows that the next stage wants."""
    if isinstance(error, LengthError):
        return error.stage != STAGES[-1]
    return isinstance(error, PayloadError)


def inspectable(error: BaseException) -> BaseException:
    """The error itself, or a plain one in place of one that raises when it is looked at."""
    try:
        plain = error.__class__ is type(error) and isinstance(type(error).__name__, str)
        _ = error.__traceback__, error.__cause__, error.__context__
    except BaseException:
        plain = False
    return error if plain else RuntimeError("an error that cannot be inspected")


def _parts_again(micro_batch: MicroBatch) -> list[MicroBatch]:
    """Nothing was called, because the parts could not be joined or cut."""
    if len(micro_batch.parts) > 1:
        return micro_batch.pieces(_half(micro_batch))  # their rows differ in shape, perhaps
    # From their requests on, which can always be cut.
    return [MicroBatch(micro_batch.indices, failed=micro_batch.failed)]


def _half(micro_batch: MicroBatch) -> int:
    return -(-len(micro_batch) // 2)
