"""Stages in a row: a batch in, outcomes out.

run(requests, plan)      the caller's thread
  cut                    requests -> micro-batches for the first stage
  lanes of stage 1       execute each, then hand on what is complete
    regroup              under the batch's lock, microseconds
  lanes of stage 2, 3    the same; a failed request skips the stages that are left
  watch                  the caller, while it waits, gives up calls that take too long
last calls               requests that were set aside pass all stages; nothing runs beside them
outcomes                 when every request is settled
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.pipeline.admission import Admission
from micro_batch_handler.pipeline.batch import LAST, Batch
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.executor import Executor
from micro_batch_handler.pipeline.gate import Gate
from micro_batch_handler.pipeline.lanes import Lanes
from micro_batch_handler.pipeline.loading_lane import current_loading_lane
from micro_batch_handler.pipeline.memory import MemoryLimits
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.recovery import Policy, Recovery
from micro_batch_handler.pipeline.requests import Requests
from micro_batch_handler.pipeline.stage import StageFunction, StageMethod
from micro_batch_handler.pipeline.watch import Clock, alarm_works_here, in_main_thread
from micro_batch_handler.planning.plan import Plan

__all__ = ["Pipeline"]

MOST_TIMEOUTS = 2
"""After so many time-outs of one call, no call of the batch is made again, so that all its calls
end before TorchServe gives up on the worker."""


class Pipeline:
    """The three stages and their lanes.

    Owns its threads: use it in a `with` statement, or call `close()`. Several threads may call
    `run()` at once: the lanes work on all their batches. A batch whose stages are called elsewhere
    than in their own lanes runs alone, since a stage may not bear two threads. If the thread that
    makes the pipeline is a loading lane, calls that may need the loading thread are made there.

    Args:
        functions: what each stage calls.
        lanes: the threads of each stage.
        ops: how payloads are counted, cut and joined.
        lane_setup: called once in each new lane, with its stage.
        policy: how faults are met.
        stage_timeout_s: the longest that one call of one stage may take; None for any time.
        clock: the time.
        streams: of the device that the functions use; None for a CPU.
        unbounded: stages whose functions bound their calls in time themselves, since a part of
            that time is not theirs.
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
        unbounded: Collection[Stage] = (),
        allowed_sizes: Sequence[int] = (),
        readings: Readings | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._stage_timeout_s = stage_timeout_s
        self._one_thread = bool(allowed_sizes)
        self._loading_lane = current_loading_lane()
        self._streams = streams or NoStreams()
        readings = readings or Readings(ops, trusted=True)
        sizes: dict[Stage, Sequence[int]] = {"inference": allowed_sizes}
        stages = [
            StageMethod(
                name,
                functions[name],
                lanes[name],
                ops,
                readings,
                self._streams,
                None if name in unbounded else stage_timeout_s,
                sizes.get(name, ()),
            )
            for name in STAGES
        ]
        self._memory = MemoryLimits(len(stages))
        self._groups = ops.group_by is not None
        self._recovery = Recovery(policy, self._memory, self._streams, self._clock)
        admission = Admission(stages, self._memory, self._clock)
        self._executor = Executor(stages, admission, self._recovery, self._memory, self._clock)
        self._lanes = Lanes(
            self._executor,
            lanes,
            lane_setup,
            self._clock,
            unbounded=unbounded,
            one_thread=self._one_thread,
            loading_lane=self._loading_lane,
        )
        self._gate = Gate()
        self._closed = False

    def run(
        self,
        requests: Sequence[Any] | Requests,
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
            requests: of the batch; `Requests` if they are to be decoded.
            plan: the sizes to cut it into.
            tag: handed to every stage function.
            deadlines_s: when each request is no longer worth a call, on the pipeline's clock.
            serial: the places of rows that pass all stages together, one group after the other,
                instead of what the plan says; for handlers that cannot be called otherwise.
            bounded: False for calls that may take any time, to compile a model perhaps.
            until_s: when no call is made again any more, on the pipeline's clock; None for
                `limit_s()`. The first call of a whole batch is made in any case.

        Raises:
            RuntimeError: the pipeline is closed.
        """
        if self._closed:
            raise RuntimeError("this pipeline is closed")
        requests = requests if isinstance(requests, Requests) else Requests(requests)
        rows = len(requests)
        interruptible = self._stage_timeout_s is not None and alarm_works_here()
        loading_lane = self._loading_lane
        elsewhere = self._one_thread or not (loading_lane is None or loading_lane.is_here)
        inline = not elsewhere and (interruptible or self._stage_timeout_s is None)
        # What must not be cut may need the thread that loaded the handler, bounded or not.
        here = not elsewhere and (inline or in_main_thread() or loading_lane is not None)
        inline = inline and plan.fits(rows)
        if rows and inline and not serial and not self._groups:
            serial = [range(rows)]
        if bounded and until_s is None:
            until_s = self.limit_s()
        batch = Batch(
            requests,
            plan=None if serial else plan,
            tag=tag,
            deadlines_s=deadlines_s,
            until_s=until_s,
            interruptible=interruptible,
        )
        with self._gate.passing(alone=bool(serial) or inline):
            if serial:
                groups = [MicroBatch(group, serial=True) for group in serial if len(group)]
                self._pass(batch, groups, here=here)
            elif inline:
                self._executor.execute_all(batch, batch.first())
            elif rows:
                self._lanes.run(batch, batch.first(), self._stage_timeout_s if bounded else None)
        self._make_last_calls(batch, here=here)
        return batch.outcomes()

    def call_alone(self, function: Callable[[], Any]) -> Any:
        """Call a function that calls stages by itself, while no batch is under way.

        Raises:
            BaseException: whatever the function raises.
        """
        with self._gate.passing(alone=True):
            return self._loading_lane.do(function) if self._loading_lane else function()

    def limit_s(self) -> float | None:
        """When a batch that begins now makes no call again; None where calls may take any time."""
        if self._stage_timeout_s is None:
            return None
        return self._clock.now_s() + MOST_TIMEOUTS * self._stage_timeout_s

    @property
    def may_overlap(self) -> bool:
        """Whether there is memory for calls beside each other, as far as is known."""
        return self._memory.may_overlap

    def has_lost(self, *, any_lane: bool) -> bool:
        """Whether the loading lane is lost, for which no other can stand in; or any hangs."""
        return self._lanes.lost_loading_lane or (any_lane and self._lanes.lost > 0)

    def close(self) -> None:
        """End all lanes but those that hang, the first stage's first; may be called again."""
        self._closed = True
        self._lanes.close()

    def __enter__(self) -> Pipeline:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pipeline {self._lanes}>"

    def _pass(self, batch: Batch, micro_batches: Sequence[MicroBatch], *, here: bool) -> None:
        """Take micro-batches through all stages, one after the other: here, or in one lane."""
        if here:
            self._executor.execute_all(batch, [(LAST, each) for each in micro_batches])
        elif micro_batches:
            self._lanes.run_in_one(batch, micro_batches, self._stage_timeout_s)

    def _make_last_calls(self, batch: Batch, *, here: bool) -> None:
        """Call requests that were set aside once more, as long as there is time.

        Those without a last call end with what they failed with before.
        """
        aside = batch.take_aside()
        if not aside:
            return
        with self._gate.passing(alone=True):
            last = self._recovery.last_calls(batch, aside)
            if not here:
                self._pass(batch, [micro_batch for micro_batch, _ in last], here=False)
                return
            for micro_batch, failure in last:
                if batch.is_late(self._clock.now_s()):
                    batch.fail(LAST, Failure(failure.stage, failure.error, micro_batch.indices))
                else:
                    self._pass(batch, [micro_batch], here=True)
