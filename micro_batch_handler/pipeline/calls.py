"""Calling a stage on a micro-batch, and recovering when the call fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import DeadlinePassed, LengthError, SplitError, StageTimeout
from micro_batch_handler.pipeline.batch import Call, Failure, Ready, Run
from micro_batch_handler.pipeline.device.lost_device import device_is_lost
from micro_batch_handler.pipeline.device.streams import NoStreams, Streams, Work
from micro_batch_handler.pipeline.grouping import Keys, by_key
from micro_batch_handler.pipeline.memory import Ceiling, free_memory, is_out_of_memory
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.records import INLINE, CallRecord
from micro_batch_handler.pipeline.recovery import Policy, inspectable, retries
from micro_batch_handler.pipeline.requests import Rows
from micro_batch_handler.pipeline.stage import Keep, StageRunner
from micro_batch_handler.pipeline.watch import Clock, alarm

__all__ = ["LAST", "Caller", "Fault", "GivenUp"]

LAST = len(STAGES) - 1
"""The position of the last stage: what passes it from its requests on passes all stages."""


Fault: TypeAlias = "tuple[int, BaseException]"
"""The position of the stage that failed, and what it raised."""


class GivenUp(BaseException):
    """The call took too long: its requests are answered, and another lane does the rest."""


class _RunStopped(BaseException):
    """The batch has ended while this thread was about to make a call."""


class _Attempt:
    """One micro-batch on its way through one stage, and how far it came."""

    __slots__ = ("batch", "here", "parts", "position", "read_s", "run", "stage", "todo")

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
        self.parts: Sequence[Part] = ()
        """What the call takes in; held here only, so that it can be let go of after a fault."""
        self.here = False
        """Whether it passes in the thread that was handed the batch, with nothing beside it."""
        self.read_s = 0.0
        """How long it took to decode the rows, which is a part of preprocess."""


class Caller:
    """Makes the calls of all stages; knows no threads but the one it is called in.

    Args:
        stages: in order.
        policy: how faults are met.
        stage_timeout_s: the longest that one call may take; None for any time.
        clock: the time.
        streams: of the device that the stages use.
        readings: learns whether what stages return can be read as rows.
        one_thread: whether inference must always be called in the same lane.
    """

    def __init__(
        self,
        stages: Sequence[StageRunner],
        policy: Policy,
        stage_timeout_s: float | None,
        clock: Clock,
        streams: Streams | NoStreams,
        readings: Readings,
        *,
        one_thread: bool,
    ) -> None:
        self._stages = stages
        self._streams = streams
        self._readings = readings
        self._one_thread = one_thread
        self._policy = policy
        self._stage_timeout_s = stage_timeout_s
        self._clock = clock
        self._ceilings = [Ceiling() for _ in stages]
        """Of calls that pass with nothing beside them."""
        self._ceilings_beside = [Ceiling(alone=False) for _ in stages]
        """Of calls beside others, which hold memory too; 0 if there must be none."""
        self.groups = any(stage.groups for stage in stages)
        """Whether rows are kept apart by keys."""

    @property
    def may_overlap(self) -> bool:
        """Whether there is memory for calls beside each other."""
        return all(ceiling.limit for ceiling in self._ceilings_beside)

    def lane_for(self, position: int, batch: MicroBatch) -> int:
        """The stage in whose lanes a micro-batch passes the stage at `position`: mostly that one.

        Where inference belongs to one thread, what starts again before it does so there.
        """
        inference = STAGES.index("inference")
        moves = self._one_thread and position > inference and not batch.parts
        return inference if moves else position

    def pass_whole(
        self, rows: Rows, tag: Any, calls: list[CallRecord]
    ) -> tuple[list[Any] | None, Fault | None]:
        """Take a whole batch through all stages in this thread, with nothing kept for a fault.

        The usual way of small batches, so every microsecond counts.

        Args:
            rows: all of the batch.
            tag: of the batch.
            calls: the record of each call is added to it.

        Returns:
            The answers, or what failed; neither, if the batch has to go another way.
        """
        indices = range(len(rows))
        if any(len(rows) > ceiling.limit for ceiling in self._ceilings):
            return None, None
        ready_s = self._clock.now_s()
        taken, unreadable = rows.take(indices)
        if unreadable:
            return None, None
        read_s = self._clock.now_s() - ready_s
        parts = [Part(taken, len(taken), 0, len(taken))]
        for position, stage in enumerate(self._stages):
            stage.permits.acquire()
            failed = True
            try:
                part, keep = self._perform(
                    stage,
                    tag,
                    indices,
                    parts,
                    read_s,
                    self._stage_timeout_s,
                    serial=True,
                    overlaps=False,
                )
                if keep is not None:
                    keep()
                self._had_memory(position, len(rows), alone=True)
                failed = False
            except BaseException as error:
                return None, (position, error)
            finally:
                stage.permits.release()
                ended_s = self._clock.now_s()
                calls.append(
                    CallRecord(stage.name, indices, INLINE, ready_s, ready_s, ended_s, failed)
                )
            parts, read_s, ready_s = [part], 0.0, ended_s
        return parts[0].payload, None

    def recover_whole(self, run: Run, fault: Fault) -> Ready:
        """Go on after a fault of `pass_whole`: what to call instead."""
        stage, error = fault
        todo: list[MicroBatch] = []
        batch = MicroBatch(range(len(run.rows)), serial=True)
        attempt = _Attempt(run, LAST, batch, todo, stage=stage)
        ready = self._recover(attempt, inspectable(error))
        return ready + [(LAST, again) for again in reversed(todo)]

    def take(
        self,
        run: Run,
        position: int,
        todo: list[MicroBatch],
        *,
        here: bool = False,
        interrupt: bool = False,
    ) -> Ready:
        """Take the last micro-batch of `todo` through the stage at `position`.

        What must be called again, is too large for the memory, may not share a call or has to wait
        while something is handed on goes back to `todo`, in parts.

        Args:
            run: the batch.
            position: the stage; micro-batches that start from their rows pass those before it too.
            todo: what this thread has to do; a time-out hands it to another lane.
            here: whether this thread was handed the batch, so that no other works for it now.
            interrupt: bound the call by an alarm, because nobody else watches this thread.

        Raises:
            GivenUp: nothing may be done for this batch in this thread any more.
        """
        batch, ready = run.leave_early(position, todo.pop(), self._clock.now_s())
        pieces = self._pieces(position, batch)
        if len(pieces) > 1:
            todo += reversed(pieces)
            return ready
        rows, read_s = None, 0.0
        if not batch.parts:
            started_s = self._clock.now_s()
            batch, rows, freed = run.leave_unreadable(position, batch)
            read_s = self._clock.now_s() - started_s
            ready += freed
        if not len(batch):
            return ready
        if ready:
            # First hand on what has become free: it would wait for this call, and be lost with it.
            todo.append(batch)
            return ready
        # Rows that start again pass all stages before this one too.
        attempt = _Attempt(run, position, batch, todo, stage=position if batch.parts else 0)
        attempt.parts = batch.parts or [Part(rows, len(batch), 0, len(batch))]
        attempt.read_s = read_s
        attempt.here = here
        try:
            result = self._call_stages(attempt, interrupt=interrupt)
        except GivenUp:
            raise
        except _RunStopped:
            return []
        except BaseException as error:
            return self._recover(attempt, inspectable(error))
        return run.accept(position, batch.indices, result)

    def _pieces(self, position: int, batch: MicroBatch) -> Sequence[MicroBatch]:
        """What the stage is called with: rows of one payload, no more than fit the memory."""
        if self.groups and len(groups := by_key(batch)) > 1:
            return groups
        if len(batch.parts) > 1 and len(groups := self._stages[position].apart(batch)) > 1:
            return groups
        if batch.serial:
            limit = min(ceiling.limit for ceiling in self._ceilings)
        else:
            limit = min(self._ceilings[position].limit, self._ceilings_beside[position].limit)
        return batch.pieces(max(1, limit)) if len(batch) > limit else (batch,)

    def _had_memory(self, stage: int, rows: int, *, alone: bool) -> None:
        """A call of the stage at this position on so many rows was good."""
        beside = self._ceilings_beside[stage]
        if not alone:
            beside.worked(rows)
            return
        self._ceilings[stage].worked(rows)
        if not beside.limit:
            beside.worked(0)

    def _call_stages(self, attempt: _Attempt, *, interrupt: bool) -> Part:
        run, batch = attempt.run, attempt.batch
        misread = None
        while True:
            try:
                result, keep = self._call(attempt, interrupt=interrupt)
            except LengthError as error:
                raise misread or error from None  # where rows were lost first
            if keep is not None:
                run.keep(keep)
            self._had_memory(attempt.stage, len(batch), alone=batch.serial)
            if attempt.stage == attempt.position:
                return result
            if batch.serial and misread is None:
                misread = self._stages[attempt.stage].misread(result.payload, len(batch))
            attempt.stage += 1
            attempt.read_s = 0.0
            attempt.parts = [result]
            if batch.serial and run.is_expired(batch, self._clock.now_s()):
                raise DeadlinePassed(self._stages[attempt.stage].name)

    def _call(self, attempt: _Attempt, *, interrupt: bool) -> tuple[Part, Keep | None]:
        """One call, on the run's list of running calls as long as it takes.

        The handler's hooks count: joining what the stage needs, looking whether its result can be
        cut.
        """
        run, batch, stage = attempt.run, attempt.batch, self._stages[attempt.stage]
        regroups = attempt.stage == attempt.position and run.regroups(attempt.position)
        bound_s = self._stage_timeout_s if interrupt else None
        stage.permits.acquire()
        call = Call(
            attempt.position,
            stage.name,
            batch,
            attempt.todo,
            self._clock.now_s(),
            attempt.read_s,
        )
        failed = True
        if not run.begin(call):
            stage.permits.release()
            raise _RunStopped
        try:
            result = self._perform(
                stage,
                run.tag,
                batch.indices,
                attempt.parts,
                attempt.read_s,
                bound_s,
                regroups=regroups,
                serial=batch.serial,
                overlaps=not attempt.here,
            )
            failed = False
            return result
        finally:
            if not self.end(run, call, failed=failed):
                raise GivenUp

    def _perform(
        self,
        stage: StageRunner,
        tag: Any,
        indices: Sequence[int],
        parts: Sequence[Part],
        before_s: float,
        bound_s: float | None,
        *,
        regroups: bool = False,
        serial: bool,
        overlaps: bool,
    ) -> tuple[Part, Keep | None]:
        """The call itself; bounded by an alarm where nobody else watches this thread."""
        rows = len(indices)
        with self._streams.work(stage.name, parts, rows, before_s, overlaps=overlaps) as work:
            if bound_s is None:
                result, keep, keys = self._work(
                    stage, tag, indices, parts, work, regroups=regroups, serial=serial
                )
            else:
                # In here: while streams change hands, no alarm may ring.
                with alarm(stage.name, bound_s):
                    result, keep, keys = self._work(
                        stage, tag, indices, parts, work, regroups=regroups, serial=serial
                    )
        return Part(result, rows, 0, rows, work.done, keys), keep

    def _work(
        self,
        stage: StageRunner,
        tag: Any,
        indices: Sequence[int],
        parts: Sequence[Part],
        work: Work,
        *,
        regroups: bool,
        serial: bool,
    ) -> tuple[Payload, Keep | None, Keys]:
        gathered = stage.gather(parts, self._readings.why_whole)
        if len(parts) > 1:
            self._readings.joined(gathered, len(parts), len(indices))
        payload = work.take_in(gathered)
        del gathered  # in other memory perhaps, which need not be held
        # What is neither cut nor joined may be anything: then only the answers are counted.
        counted = not serial and (regroups or self.groups)
        result, keep = stage.call(tag, indices, payload, counted=counted)
        self._readings.note(stage.name, result, len(indices), stage.size(len(indices)))
        if regroups:
            stage.check_regroups(result)
            self._readings.check(stage.name)
        keys = None if serial else stage.keys(result, parts, len(indices))
        return work.hand_over(result), keep, keys

    def end(self, run: Run, call: Call, *, failed: bool) -> bool:
        """The call has returned or is given up; False if it was the other before."""
        ended_s = self._clock.now_s()
        counts = run.end(call, ended_s, failed=failed)
        if counts:
            call.batch.ready_s = ended_s  # for the stage after it, or for another try
            self._stages[STAGES.index(call.stage)].permits.release()
        return counts

    def _recover(self, attempt: _Attempt, error: BaseException) -> Ready:
        """Let a failed call be repeated in parts, or answer its requests with the error."""
        run, batch = attempt.run, attempt.batch
        stage = self._stages[attempt.stage].name
        lost = device_is_lost(error)
        if lost:
            self._streams.keep_all()
        if lost or isinstance(error, SplitError) or not self._policy.isolate:
            run.stop(stage, error, fatal=lost)
            return []
        if not self._policy.repeats(run.tag, batch.indices):
            return run.fail(attempt.position, batch.indices, stage, error)
        out_of_memory = is_out_of_memory(error)
        late = run.is_late(self._clock.now_s())
        again = [] if late else retries(self._policy, batch, error)
        lane = self.lane_for(attempt.position, batch)
        # This thread's frames, which the error holds by its traceback, hold the batch: what it took
        # in must not stay in memory beside what is called again.
        batch.parts = attempt.parts = ()
        if out_of_memory:
            # A row that fails with nothing beside it is judged by its next call.
            thorough = batch.serial and len(batch) == 1
            free_memory(error, self._streams.release, thorough=thorough)
            self._had_no_memory(attempt)
            if not (late or batch.serial):
                # Others hold memory: only with nothing beside it can be seen what fits.
                run.note_retry(stage, error, batch.indices)
                run.crowded = run.crowded or Failure(stage, error, batch.indices)
                return run.set_aside(attempt.position, batch.indices, stage, error)
        if again:
            if batch.planned:
                run.note_retry(stage, error, batch.indices)
            return self._repeat(attempt, lane, again)
        if not (late or batch.serial or isinstance(error, StageTimeout)):
            return run.set_aside(attempt.position, batch.indices, stage, error)
        if out_of_memory and len(batch) == 1:
            self._fits_nowhere(attempt)
        return run.fail(attempt.position, batch.indices, stage, error)

    def _had_no_memory(self, attempt: _Attempt) -> None:
        run, batch = attempt.run, attempt.batch
        if not batch.serial:
            ceiling = self._ceilings_beside[attempt.stage]
            ceiling.failed(len(batch), first=run.crowded is None)
        elif len(batch) > 1:
            self._ceilings[attempt.stage].failed(len(batch), first=not batch.failed)

    def _fits_nowhere(self, attempt: _Attempt) -> None:
        """The row does not fit by itself, so it was behind the failures of this batch."""
        self._ceilings[attempt.stage].failed_alone()
        if attempt.run.crowded is not None:
            self._ceilings_beside[attempt.stage].failed_alone()

    def _repeat(self, attempt: _Attempt, lane: int, again: list[MicroBatch]) -> Ready:
        """Let this thread do it next, or a lane that may call the stages it needs."""
        position = attempt.position
        if self.lane_for(position, again[0]) != lane:
            return [(position, batch) for batch in again]
        attempt.todo += reversed(again)
        return []
