"""A trace: batches with all their calls and the settings they ran with, but no payloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan

__all__ = ["Setup", "Trace", "TracedBatch", "call_s", "on_one_clock"]


@dataclass(frozen=True)
class Setup:
    """The settings and the machine that batches ran with."""

    model: str
    lanes: PerStage[int]
    batch_size: int
    """The most rows of a batch."""
    cores: int
    """That this process may use."""
    threads: IntraOpThreads | None = None
    """None in older traces."""
    on_device: bool = False
    """Whether the model is on an accelerator."""
    pads: bool = False
    """Whether calls of inference are padded to `allowed_sizes`."""


class TracedBatch(NamedTuple):
    """One batch; times are seconds on a clock that all batches of a trace share."""

    rows: int
    plan: Plan
    began_s: float
    ended_s: float
    calls: Sequence[CallRecord]
    """In the order in which they ended."""

    @classmethod
    def of(cls, record: BatchRecord) -> TracedBatch:
        """The part of a record that a trace keeps: nothing of requests and answers."""
        calls = tuple(call._replace(indices=tuple(call.indices)) for call in record.outcomes.calls)
        return cls(record.rows, record.plan, record.began_s, record.ended_s, calls)

    @property
    def wall_s(self) -> float:
        """Seconds from the cut of the batch to its last settled request."""
        return self.ended_s - self.began_s


@dataclass(frozen=True)
class Trace:
    """Batches of one handler, in order."""

    setup: Setup
    batches: Sequence[TracedBatch]
    clock_s: float | None = 0.0
    """When its time 0 was, on the system's monotonic clock; None in older traces."""


def on_one_clock(traces: Sequence[Trace]) -> list[Trace]:
    """Traces of several workers of one machine, with times that can be compared.

    Raises:
        TraceError: a trace does not tell its clock.
    """
    if any(trace.clock_s is None for trace in traces):
        raise TraceError("an older trace does not tell when it began, so it can only stand alone")
    zero_s = min(trace.clock_s or 0.0 for trace in traces)
    return [_later(trace, (trace.clock_s or 0.0) - zero_s, zero_s) for trace in traces]


def _later(trace: Trace, by_s: float, zero_s: float) -> Trace:
    batches = [
        batch._replace(
            began_s=batch.began_s + by_s,
            ended_s=batch.ended_s + by_s,
            calls=[_call_later(call, by_s) for call in batch.calls],
        )
        for batch in trace.batches
    ]
    return Trace(trace.setup, batches, zero_s)


def _call_later(call: CallRecord, by_s: float) -> CallRecord:
    return call._replace(
        ready_s=call.ready_s + by_s,
        began_s=call.began_s + by_s,
        ended_s=call.ended_s + by_s,
        host=_host_later(call.host, by_s),
    )


def _host_later(host: HostCall | None, by_s: float) -> HostCall | None:
    if host is None:
        return None
    return host._replace(
        came_s=host.came_s + by_s,
        began_s=host.began_s + by_s,
        ended_s=host.ended_s + by_s,
        before=_host_later(host.before, by_s),
    )


def call_s(call: CallRecord) -> float:
    """Seconds that a call took."""
    return call.ended_s - call.began_s
