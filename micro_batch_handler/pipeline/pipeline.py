"""Stages in a row: a batch in, outcomes out.

run(rows, plan)          the caller's thread
  cut                    rows -> micro-batches for the first stage
  lanes of stage 1       call, recover from faults, then hand on what is complete
    regroup              under the run's lock, microseconds
  lanes of stage 2, 3    the same; a failed request skips the stages that are left
  watch                  the caller, while it waits, gives up calls that take too long
last calls               the caller again: rows that were set aside pass all stages, one by one
outcomes                 when every request is settled
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from textwrap import indent
from types import TracebackType
from typing import Any

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.pipeline.batch import Call, Outcomes, Ready, Run
from micro_batch_handler.pipeline.calls import LAST, Caller, GivenUp
from micro_batch_handler.pipeline.device.streams import NoStreams, Streams
from micro_batch_handler.pipeline.memory import free_memory, is_out_of_memory
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.records import CallRecord
from micro_batch_handler.pipeline.recovery import Policy, verdicts
from micro_batch_handler.pipeline.requests import Rows
from micro_batch_handler.pipeline.stage import LanePool, StageFunction, StageRunner
from micro_batch_handler.pipeline.watch import Clock, alarm_works_here, in_main_thread, stacks
from micro_batch_handler.planning.plans import Plan

__all__ = ["Pipeline"]

logger = logging.getLogger(__name__)

MOST_TIMEOUTS = 2
"""After so many time-outs of one call, no call of the batch is made again, so that all its calls
end before TorchServe gives up on the worker."""

MOST_LOST_LANES = 3
"""Lanes that may hang at once. One more would not: the batch ends, and so must the process.

With `stage_timeout` at a quarter of TorchServe's `responseTimeout`, its default, three time-outs
one after the other still end before TorchServe gives up on the worker.
"""


class Pipeline:
    """The three stages and their lanes.

    Owns its threads: use it in a `with` statement, or call `close()`. Several threads may call
    `run()` at once.

    Args:
        functions: what each stage calls.
        lanes: the threads of each stage.
        ops: how payloads are counted, cut and joined.
        lane_setup: called once in each new lane, with its stage.
        policy: how faults are met.
        stage_timeout_s: the longest that one call of one stage may take; None for any time.
        clock: the time.
        streams: of the device that the functions use; None for a CPU.
        allowed_sizes: the row counts that inference may be called with, ascending; none for any.
            With them it is called in its one lane only: CUDA graphs belong to a thread.
        readings: learns whether what stages return can be read as rows.
    """

    def __init__(
        self,
        functions: Mapping[Stage, StageFunction],
        lanes: PerStage[int],
        ops: PayloadOps = CUT_AND_JOIN,
        lane_setup: Callable[[Stage], None] | None = None,
        policy: Policy = Policy(),  # noqa: B008  (frozen)
        stage_timeout_s: float | None = None,
        clock: Clock | None = None,
        streams: Streams | NoStreams | None = None,
        allowed_sizes: Sequence[int] = (),
        readings: Readings | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._stage_timeout_s = stage_timeout_s
        self._one_thread = bool(allowed_sizes)
        sizes: dict[Stage, Sequence[int]] = {"inference": allowed_sizes}
        stages = [
            StageRunner(name, functions[name], ops, lanes[name], sizes.get(name, ()))
            for name in STAGES
        ]
        self._streams = streams or NoStreams()
        self._caller = Caller(
            stages,
            policy,
            stage_timeout_s,
            self._clock,
            self._streams,
            readings or Readings(ops, trusted=True),
            one_thread=self._one_thread,
        )
        # The first inbox is unbounded, since the caller fills it before it waits; the others hold
        # little more than their lanes need, so that a fast stage cannot pile up payloads.
        self._pools = [
            LanePool(
                name,
                lanes[name],
                2 * lanes[name] if position else None,
                None if lane_setup is None else partial(lane_setup, name),
            )
            for position, name in enumerate(STAGES)
        ]
        self._closed = False

    def run(
        self,
        rows: Sequence[Any] | Rows,
        plan: Plan,
        tag: Any = None,
        deadlines_s: Sequence[float | None] | None = None,
        *,
        serial: Sequence[Sequence[int]] = (),
        bounded: bool = True,
        until_s: float | None = None,
    ) -> Outcomes:
        """Take a batch through the stages.

        Returns when every request is settled. Never raises what a stage raised: that is in the
        outcomes. A batch that is one micro-batch in every stage runs in the calling thread, unless
        calls are bounded in time and cannot be interrupted here.

        Args:
            rows: one entry a request; `Rows` if they are to be decoded.
            plan: the sizes to cut it into.
            tag: handed to every stage function.
            deadlines_s: when each request is no longer worth a call, on the pipeline's clock.
            serial: the places of rows that pass all stages together, one group after the other,
                instead of what the plan says; for handlers that stand nothing else.
            bounded: False for calls that may take any time, to compile a model perhaps.
            until_s: when no call is made again any more, on the pipeline's clock; None for
                `until_s()`.

        Raises:
            RuntimeError: the pipeline is closed.
        """
        if self._closed:
            raise RuntimeError("this pipeline is closed")
        rows = rows if isinstance(rows, Rows) else Rows(rows)
        interrupt = self._stage_timeout_s is not None and alarm_works_here()
        bounded_here = not self._one_thread and (interrupt or self._stage_timeout_s is None)
        # What must not be cut may need the very thread that was handed the batch, bounded or not.
        here = not self._one_thread and (bounded_here or in_main_thread())
        if bounded_here and not serial and plan.fits(len(rows)) and not self._caller.groups:
            serial = [range(len(rows))]
        calls: list[CallRecord] = []
        fault = None
        if bounded_here and len(serial) == 1 and deadlines_s is None and len(rows):
            answers, fault = self._caller.pass_whole(rows, tag, calls)
            if answers is not None:
                return Outcomes(answers, {}, [], calls=calls)
        if bounded and until_s is None:
            until_s = self.until_s()
        run = Run(rows, plan, tag, deadlines_s, calls, until_s)
        if fault is not None:
            self._work_here(run, self._caller.recover_whole(run, fault), interrupt)
        elif serial:
            self._pass(run, [MicroBatch(group, serial=True) for group in serial], here, interrupt)
        elif bounded_here and plan.fits(len(rows)):
            self._work_here(run, run.first(), interrupt)
        elif len(rows):
            self._submit(run, run.first())
            self._wait(run, self._stage_timeout_s if bounded else None)
        self._judge(run, here, interrupt)
        return run.outcomes()

    def until_s(self) -> float | None:
        """When a batch that begins now makes no call again; None where calls may take any time."""
        if self._stage_timeout_s is None:
            return None
        return self._clock.now_s() + MOST_TIMEOUTS * self._stage_timeout_s

    @property
    def may_overlap(self) -> bool:
        """Whether there is memory for calls beside each other, as far as is known."""
        return self._caller.may_overlap

    @property
    def lost_lanes(self) -> int:
        """Lanes that were replaced and still hang."""
        return sum(pool.lost for pool in self._pools)

    def close(self) -> None:
        """End all lanes but those that hang, the first stage's first; may be called again."""
        self._closed = True
        for pool in self._pools:
            pool.close()

    def __enter__(self) -> Pipeline:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        stages = " | ".join(
            f"{stage}: {pool.lanes} lanes, {pool.waiting} waiting"
            for stage, pool in zip(STAGES, self._pools, strict=True)
        )
        return f"<Pipeline {stages}>"

    def _submit(self, run: Run, ready: Ready) -> None:
        now_s = self._clock.now_s() if ready else 0.0
        for position, batch in ready:
            batch.ready_s = now_s
            lane = self._caller.lane_for(position, batch)
            task = partial(self._work, run, position, [batch])
            self._pools[lane].submit(task, wait=lane == position)

    def _work(
        self, run: Run, position: int, todo: list[MicroBatch], ready: Ready | None = None
    ) -> bool:
        """What a lane does: hand on what is ready, then take `todo` through its stage.

        False if the lane was given up meanwhile.
        """
        run.enter()
        try:
            self._submit(run, ready or [])
            while todo and not run.stopped:
                self._submit(run, self._caller.take(run, position, todo))
        except GivenUp:
            return False  # whoever gave it up has left for it
        except BaseException as error:
            # A fault of ours, then: nobody may wait for this lane.
            run.stop(STAGES[position], error)
        run.leave()
        return True

    def _work_here(self, run: Run, ready: Ready, interrupt: bool) -> None:
        """What a lane does, in this thread, and all that it makes ready."""
        while ready and not run.stopped:
            position, *todo = ready.pop(0)  # nobody else holds what a call takes in
            try:
                while todo and not run.stopped:
                    ready += self._caller.take(run, position, todo, here=True, interrupt=interrupt)
            except BaseException as error:
                run.stop(STAGES[position], error)

    def _pass(self, run: Run, batches: list[MicroBatch], here: bool, interrupt: bool) -> None:
        """Take micro-batches through all stages, one after the other: here, or in one lane."""
        if here:
            self._work_here(run, [(LAST, batch) for batch in batches], interrupt)
        elif batches:
            lane = self._caller.lane_for(LAST, batches[0])
            self._pools[lane].submit(partial(self._work, run, LAST, batches[::-1]))
            self._wait(run, self._stage_timeout_s)

    def _judge(self, run: Run, here: bool, interrupt: bool) -> None:
        """Make the last calls for requests that were set aside, as long as there is time.

        Those without a last call end with what they failed with before.
        """
        aside = run.take_aside()
        for failure in aside:
            if is_out_of_memory(failure.error):
                self._clock.wait(run.idle, None)
                free_memory(failure.error, self._streams.release)  # all of it: nothing runs now
                break
        last = verdicts(aside)
        if not here:
            self._pass(run, [batch for batch, _ in last], here, interrupt)
            return
        for batch, failure in last:
            if run.is_late(self._clock.now_s()):
                run.fail(LAST, batch.indices, failure.stage, failure.error)
            else:
                self._pass(run, [batch], here, interrupt)

    def _wait(self, run: Run, timeout_s: float | None) -> None:
        """Wait for the batch; meanwhile give up calls that take longer than `timeout_s`."""
        while not self._clock.wait(run.finished, self._next_look_s(run, timeout_s)):
            now_s = self._clock.now_s()
            for call in run.calls():
                if timeout_s and now_s >= call.started_s + timeout_s:
                    self._give_up(run, call, timeout_s)

    def _next_look_s(self, run: Run, timeout_s: float | None) -> float | None:
        if timeout_s is None:
            return None
        now_s = self._clock.now_s()
        # A call that begins later than now ends later than this.
        starts_s = [now_s, *(call.started_s for call in run.calls())]
        return max(0.0, min(starts_s) + timeout_s - now_s)

    def _give_up(self, run: Run, call: Call, timeout_s: float) -> None:
        """Answer the requests of a call that hangs, and let a new lane do what its was to do."""
        doing = stacks()
        if not self._caller.end(run, call, failed=True):
            return  # it has just returned
        error = StageTimeout(call.stage, timeout_s)
        logger.error("%s; its lane is replaced. What the lanes do:\n%s", error, indent(doing, "  "))
        run.leave()
        ready = run.fail(call.position, call.batch.indices, call.stage, error)
        # The new lane also hands on what this frees: here, a full inbox would stop the watch.
        task = partial(self._work, run, call.position, call.rest, ready)
        pool = next(pool for pool in self._pools if call.thread in pool)
        pool.replace(call.thread, task)
        if self.lost_lanes >= MOST_LOST_LANES:
            run.stop(call.stage, error, fatal=True)
