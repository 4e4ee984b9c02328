"""Which rows a trace's picture has, and what is in them: lanes, queues, the model host."""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.call import INLINE, LANE
from micro_batch_handler.tools.pages.trace_looks import QUEUE
from micro_batch_handler.tracing.host_use import host_bars, queued
from micro_batch_handler.tracing.lane_use import Span, how_many, idle_spans, lane_names, waiting
from micro_batch_handler.tracing.recording import Trace, TracedBatch

__all__ = ["TraceRows", "coarsest"]


class TraceRows:
    """What happened while one batch was under way.

    Args:
        traces: of one worker or several, on one clock.
        shown: whose batch it is, as a place in `traces`.
        batch: that is shown.
    """

    def __init__(self, traces: Sequence[Trace], shown: int, batch: TracedBatch) -> None:
        self.batches = [(shown, batch)] + [
            (worker, each)
            for worker, trace in enumerate(traces)
            for each in trace.batches
            if worker != shown and each.began_s < batch.ended_s and each.ended_s > batch.began_s
        ]
        """Each with the place of its worker, as the calls."""
        self.calls = [(worker, call) for worker, each in self.batches for call in each.calls]
        self.bars = [
            bar
            for bar in host_bars(self.calls)
            if bar.host.began_s < batch.ended_s and bar.host.ended_s > batch.began_s
        ]
        """The host calls."""
        self.lanes: dict[tuple[int, str], float] = {}
        """Worker and thread -> how far down its row begins, in rows."""
        self.queues: dict[tuple[int, Stage], float] = {}
        """The same of what waits for the lanes of a stage."""
        self.hosts: dict[Stage, float] = {}
        """The same of the host's own lanes."""
        self.height = 0.0
        self._hosted = {call.stage for _, call in self.calls if call.host is not None}
        for worker in sorted({worker for worker, _ in self.batches}):
            self._place(worker, traces[worker])
            self.height += 0.4 if len(traces) > 1 else 0
        for stage in STAGES:
            if any(bar.stage == stage for bar in self.bars):
                self.hosts[stage] = self.height + QUEUE
                self.height += QUEUE + 1.3

    def _place(self, worker: int, trace: Trace) -> None:
        used = {call.thread for of, call in self.calls if of == worker}
        if INLINE in used:
            self.lanes[worker, INLINE] = self.height
            self.height += 1
        # In a whole batch the lanes did nothing, in one that was cut the caller.
        names = [] if used == {INLINE} else lane_names(trace)
        for stage in STAGES:
            own = [name for name in names if name.startswith(f"{LANE}{stage}-")]
            if stage in self._hosted:
                # They only wait for the host: there are as many as calls at a time.
                own = [name for name in own if name in used]
            if own:
                self.queues[worker, stage] = self.height
                self.height += QUEUE
            for name in own:
                self.lanes[worker, name] = self.height
                self.height += 1
            self.height += 0.3 if own else 0

    def idle(self, worker: int, thread: str) -> list[Span]:
        """When a lane had no call, in the batches of its worker."""
        if any(thread.startswith(f"{LANE}{stage}-") for stage in self._hosted):
            return []
        of_worker = (batch for of, batch in self.batches if of == worker)
        return [span for batch in of_worker for span in idle_spans(batch, thread)]

    def queue(self, worker: int, stage: Stage) -> list[tuple[Span, int]]:
        """How many micro-batches of a worker waited for a lane of the stage."""
        of_worker = (batch for of, batch in self.batches if of == worker)
        return [step for batch in of_worker for step in waiting(batch, stage)]

    def host_queue(self, stage: Stage) -> list[tuple[Span, int]]:
        """How many micro-batches waited in the model host for a call of the stage."""
        return how_many(
            (began_s, ended_s)
            for _, call in self.calls
            for of, began_s, ended_s in queued(call)
            if of == stage
        )


def coarsest(batch: TracedBatch) -> list[Sequence[int]]:
    """The micro-batches of the stage with the largest, in order."""
    largest = max(batch.calls, key=lambda call: len(call.indices))
    groups = {
        call.indices[0]: call.indices
        for call in batch.calls
        if call.stage == largest.stage and not call.failed
    }
    return [groups[first] for first in sorted(groups)]
