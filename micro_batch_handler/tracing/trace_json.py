"""Traces written and read as Chrome's trace events, which Perfetto and chrome://tracing show.

    batches      one slice a batch, with its rows and its plan
    lanes        one thread each; a slice is a call, its args say rows and how long it waited
    flows        arrows from a call to those of the next stage that took its rows

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from typing import Any

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tracing.lane_use import lane_names, with_sources
from micro_batch_handler.tracing.recording import Setup, Trace, TracedBatch

__all__ = ["from_json", "to_json"]

_BATCHES = "batches"
_NS_PER_S = 1e9


def to_json(trace: Trace) -> str:
    """The whole file."""
    setup = trace.setup
    began_s = trace.batches[0].began_s if trace.batches else 0.0
    names = [_BATCHES, *lane_names(trace)]
    events = [
        {"ph": "M", "name": "process_name", "pid": 1, "tid": 1, "args": {"name": setup.model}}
    ]
    # From 1, which is the process's own thread: Perfetto has another use for 0.
    tids = {name: tid for tid, name in enumerate(names, 1)}
    for name, tid in tids.items():
        about = {"ph": "M", "pid": 1, "tid": tid}
        events.append({**about, "name": "thread_name", "args": {"name": name}})
        events.append({**about, "name": "thread_sort_index", "args": {"sort_index": tid}})
    arrows = count(1)
    for number, batch in enumerate(trace.batches):
        events += _events(batch, number, began_s, tids, arrows)
    other = {
        "micro_batch_handler": 1,  # the version of what follows
        "model": setup.model,
        "batchSize": setup.batch_size,
        "cores": setup.cores,
        "lanes": asdict(setup.lanes),
        "onDevice": setup.on_device,
        "pads": setup.pads,
    }
    if setup.threads is not None:
        threads = setup.threads
        other["threads"] = {"lanes": asdict(threads.lanes), "whole": threads.whole}
    whole = {"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}
    return json.dumps(whole, separators=(",", ":"))


def from_json(text: str | bytes) -> Trace:
    """The trace that `to_json` wrote, to the nanosecond.

    Raises:
        TraceError: it is something else.
    """
    try:
        whole = json.loads(text)
        other, events = whole["otherData"], whole["traceEvents"]
        known = other["micro_batch_handler"] == 1
        lanes = PerStage(*(int(other["lanes"][stage]) for stage in STAGES))
        setup = Setup(
            *(str(other["model"]), lanes, int(other["batchSize"]), int(other["cores"])),
            _threads(other.get("threads")),
            on_device=bool(other.get("onDevice")),
            pads=bool(other.get("pads")),
        )
        batches = _batches(events)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(
            "this is no trace of this package; give one that the `trace` command or key wrote"
        ) from error
    if not known:
        raise TraceError("this trace is from another version of this package; trace again")
    return Trace(setup, batches)


def _threads(found: Any) -> IntraOpThreads | None:
    if found is None:
        return None
    lanes = PerStage(*(int(found["lanes"][stage]) for stage in STAGES))
    # Older traces say "unsplit".
    return IntraOpThreads(lanes, int(found.get("whole", found.get("unsplit"))))


def _events(
    batch: TracedBatch, number: int, origin_s: float, tids: dict[str, int], arrows: count[int]
) -> Iterator[dict[str, Any]]:
    def us(at_s: float) -> float:
        return round((at_s - origin_s) * _NS_PER_S) / 1e3

    def span(name: str, thread: str, began_s: float, ended_s: float, args: Any) -> dict[str, Any]:
        dur = round(us(ended_s) - us(began_s), 3)
        kind = "batch" if thread == _BATCHES else "call"
        return {
            "ph": "X", "name": name, "cat": kind, "pid": 1, "tid": tids[thread],
            "ts": us(began_s), "dur": dur, "args": args,
        }  # fmt: skip

    args = {"batch": number, "rows": batch.rows, "sizes": list(batch.plan)}
    yield span(f"batch {number}: {batch.rows} rows", _BATCHES, batch.began_s, batch.ended_s, args)
    for call, sources in with_sources(batch.calls):
        args = {
            "batch": number,
            "stage": call.stage,
            "rows": list(call.indices),
            "ready_us": us(call.ready_s),
            "wait_ms": round((call.began_s - call.ready_s) * 1e3, 6),
            "failed": call.failed,
        }
        name = f"{call.stage} {_shown(call)}"
        yield span(name, call.thread, call.began_s, call.ended_s, args)
        for source in sources:
            arrow = {"name": "rows", "cat": "rows", "pid": 1, "id": next(arrows)}
            # An arrow hangs on the slice that its time lies in, and a slice's end is outside.
            leaves = max(us(source.began_s), us(source.ended_s) - 0.001)
            yield {**arrow, "ph": "s", "tid": tids[source.thread], "ts": leaves}
            yield {**arrow, "ph": "f", "bp": "e", "tid": tids[call.thread], "ts": us(call.began_s)}


def _shown(call: CallRecord) -> str:
    first, last = call.indices[0], call.indices[-1]
    rows = f"row {first}" if first == last else f"rows {first}-{last}"
    return f"{rows} (failed)" if call.failed else rows


def _batches(events: list[dict[str, Any]]) -> list[TracedBatch]:
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X"]
    batches = []
    calls: dict[int, list[CallRecord]] = {}
    for span in spans:
        args = span["args"]
        began_s, ended_s = span["ts"] / 1e6, (span["ts"] + span["dur"]) / 1e6
        if span["cat"] == "batch":
            sizes = Plan(*map(int, args["sizes"]))
            of_batch = calls.setdefault(args["batch"], [])
            batches.append(TracedBatch(int(args["rows"]), sizes, began_s, ended_s, of_batch))
        else:
            if args["stage"] not in STAGES:
                raise ValueError(args["stage"])
            calls[args["batch"]].append(
                CallRecord(
                    args["stage"],
                    tuple(map(int, args["rows"])),
                    str(names[span["tid"]]),
                    args["ready_us"] / 1e6,
                    began_s,
                    ended_s,
                    bool(args["failed"]),
                )
            )
    return batches
