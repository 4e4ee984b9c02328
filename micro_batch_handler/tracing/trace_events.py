"""The events of a trace's file: slices of threads, their names, and arrows between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.tracing.host_use import HostBar, host_calls_of, queued
from micro_batch_handler.tracing.lane_use import with_sources
from micro_batch_handler.tracing.recording import TracedBatch

__all__ = ["BATCHES", "Process", "batch_events", "host_call"]

BATCHES = "batches"
"""The name of the thread that shows batches."""

NS_PER_S = 1e9


class Process:
    """A process of the file: a worker, or the model host.

    Args:
        pid: its number in the file.
        origin_s: the time 0 of the file.
        threads: their names, in order.
    """

    def __init__(self, pid: int, origin_s: float, threads: Sequence[str]) -> None:
        self.pid = pid
        self._origin_s = origin_s
        # From 1, which is the process's own thread: Perfetto has another use for 0.
        self.tids = {name: tid for tid, name in enumerate(threads, 1)}

    def named(self, name: str) -> Iterator[dict[str, Any]]:
        """The events that name the process and its threads."""
        about = {"ph": "M", "pid": self.pid}
        yield {**about, "name": "process_name", "tid": 1, "args": {"name": name}}
        for thread, tid in self.tids.items():
            yield {**about, "tid": tid, "name": "thread_name", "args": {"name": thread}}
            yield {**about, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}

    def us(self, at_s: float) -> float:
        """Microseconds since the time 0 of the file, to the nanosecond."""
        return round((at_s - self._origin_s) * NS_PER_S) / 1e3

    def span(
        self, name: str, kind: str, thread: str, began_s: float, ended_s: float, args: Any
    ) -> dict[str, Any]:
        """A slice of a thread."""
        dur = round(self.us(ended_s) - self.us(began_s), 3)
        return {
            "ph": "X", "name": name, "cat": kind, "pid": self.pid, "tid": self.tids[thread],
            "ts": self.us(began_s), "dur": dur, "args": args,
        }  # fmt: skip


def batch_events(
    batch: TracedBatch, number: int, process: Process, arrows: count[int]
) -> Iterator[dict[str, Any]]:
    """A batch with its calls, what they waited for, and arrows between them."""
    us, span = process.us, process.span
    sizes, lanes = list(batch.plan), list(batch.plan.lanes)
    args = {"batch": number, "rows": batch.rows, "sizes": sizes, "lanes": lanes}
    name = f"batch {number}: {batch.rows} rows"
    yield span(name, "batch", BATCHES, batch.began_s, batch.ended_s, args)
    for call, sources in with_sources(batch.calls):
        args = {
            "batch": number,
            "stage": call.stage,
            "rows": list(call.indices),
            "ready_us": us(call.ready_s),
            "wait_ms": round((call.began_s - call.ready_s) * 1e3, 6),
            "failed": call.failed,
        }
        if call.host is not None:
            args["host"] = [_host_args(host, us) for _, host in host_calls_of(call)]
        name = f"{call.stage} {_shown(call)}"
        yield span(name, "call", call.thread, call.began_s, call.ended_s, args)
        for stage, began_s, ended_s in queued(call):
            name = f"waits in the model host for {stage}"
            yield span(name, "wait", call.thread, began_s, ended_s, {"batch": number})
        for source in sources:
            arrow = {"name": "rows", "cat": "rows", "pid": process.pid, "id": next(arrows)}
            # An arrow hangs on the slice that its time lies in, and a slice's end is outside.
            leaves = max(us(source.began_s), us(source.ended_s) - 0.001)
            yield {**arrow, "ph": "s", "tid": process.tids[source.thread], "ts": leaves}
            taker = process.tids[call.thread]
            yield {**arrow, "ph": "f", "bp": "e", "tid": taker, "ts": us(call.began_s)}


def host_call(bar: HostBar, process: Process) -> dict[str, Any]:
    """A host call in the thread of its stage."""
    host = bar.host
    args = {
        "rows": host.rows,
        "parts": host.parts,
        "own_rows": {
            str(worker): sum(len(call.indices) for of, call in bar.parts if of == worker)
            for worker, _ in bar.parts
        },
    }
    name = f"{bar.own_rows} of {host.rows} rows"
    return process.span(name, "host", bar.stage, host.began_s, host.ended_s, args)


def _host_args(host: HostCall, us: Callable[[float], float]) -> dict[str, Any]:
    times = {"came_us": host.came_s, "began_us": host.began_s, "ended_us": host.ended_s}
    return {
        **{name: us(at_s) for name, at_s in times.items()},
        "rows": host.rows, "parts": host.parts, "first": host.first,
    }  # fmt: skip


def _shown(call: CallRecord) -> str:
    first, last = call.indices[0], call.indices[-1]
    rows = f"row {first}" if first == last else f"rows {first}-{last}"
    return f"{rows} (failed)" if call.failed else rows
