"""Traces written and read as Chrome's trace events, which Perfetto and chrome://tracing show.

    batches      one slice a batch, with its rows and its plan
    lanes        one thread each; a slice is a call, its args say rows and how long it waited
    model host   a process with a thread for each hosted stage; a slice is a host call
    flows        arrows from a call to those of the next stage that took its rows

The format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import count
from typing import Any

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tracing.host_use import host_bars
from micro_batch_handler.tracing.lane_use import lane_names
from micro_batch_handler.tracing.recording import Setup, Trace, TracedBatch
from micro_batch_handler.tracing.trace_events import BATCHES, Process, batch_events, host_call

__all__ = ["from_json", "to_json"]


def to_json(trace: Trace, *others: Trace) -> str:
    """The whole file.

    Args:
        trace: of a worker.
        others: of other workers of the model, on the same clock; the file can only be shown then.
    """
    setup, traces = trace.setup, (trace, *others)
    origin_s = min((each.batches[0].began_s for each in traces if each.batches), default=0.0)
    events: list[dict[str, Any]] = []
    arrows = count(1)
    for pid, each in enumerate(traces, 1):
        process = Process(pid, origin_s, [BATCHES, *lane_names(each)])
        events += process.named(f"{setup.model}, worker {pid}" if others else setup.model)
        for number, batch in enumerate(each.batches):
            events += batch_events(batch, number, process, arrows)
    bars = host_bars(
        (number, call)
        for number, each in enumerate(traces, 1)
        for batch in each.batches
        for call in batch.calls
    )
    if bars:
        stages = [stage for stage in STAGES if any(bar.stage == stage for bar in bars)]
        process = Process(len(traces) + 1, origin_s, stages)
        events += process.named(f"{setup.model}, model host")
        events += (host_call(bar, process) for bar in bars)
    other = {
        "micro_batch_handler": 1,  # the version of what follows
        "model": setup.model,
        "batchSize": setup.batch_size,
        "cores": setup.cores,
        "lanes": asdict(setup.lanes),
        "onDevice": setup.on_device,
        "pads": setup.pads,
    }
    if trace.clock_s is not None:
        other["clock_s"] = trace.clock_s + origin_s
    if others:
        other["workers"] = len(traces)
    if setup.threads is not None:
        threads = setup.threads
        other["threads"] = {"lanes": asdict(threads.lanes), "whole": threads.whole}
    whole = {"displayTimeUnit": "ms", "otherData": other, "traceEvents": events}
    return json.dumps(whole, separators=(",", ":"))


def from_json(text: str | bytes) -> Trace:
    """The trace that `to_json` wrote, to the nanosecond.

    Raises:
        TraceError: it is something else, or of several workers.
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
        several = "workers" in other
        batches = [] if several else _batches(events)
        clock_s = other.get("clock_s")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TraceError(
            "this is no trace of this package; give one that the `trace` command or key wrote"
        ) from error
    if not known:
        raise TraceError("this trace is from another version of this package; trace again")
    if several:
        raise TraceError("this file is of several workers; give the files that they wrote")
    return Trace(setup, batches, clock_s)


def _threads(found: Any) -> IntraOpThreads | None:
    if found is None:
        return None
    lanes = PerStage(*(int(found["lanes"][stage]) for stage in STAGES))
    # Older traces say "unsplit".
    return IntraOpThreads(lanes, int(found.get("whole", found.get("unsplit"))))


def _host(found: Sequence[Mapping[str, Any]]) -> HostCall | None:
    """A host call as it was written, with those before it."""
    host = None
    for each in reversed(found):
        came_s, began_s, ended_s = (each[f"{name}_us"] / 1e6 for name in ("came", "began", "ended"))
        about = (int(each["rows"]), int(each["parts"]), bool(each["first"]))
        host = HostCall(*about, came_s, began_s, ended_s, host)
    return host


def _batches(events: list[dict[str, Any]]) -> list[TracedBatch]:
    names = {
        e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1
    }
    spans = [event for event in events if event["ph"] == "X"]
    batches = []
    calls: dict[int, list[CallRecord]] = {}
    for span in spans:
        args = span["args"]
        began_s, ended_s = span["ts"] / 1e6, (span["ts"] + span["dur"]) / 1e6
        if span["cat"] == "batch":
            plan = Plan(*map(int, args["sizes"]), lanes=tuple(map(int, args.get("lanes", ()))))
            of_batch = calls.setdefault(args["batch"], [])
            batches.append(TracedBatch(int(args["rows"]), plan, began_s, ended_s, of_batch))
        elif span["cat"] == "call":
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
                    _host(args.get("host", ())),
                )
            )
    return batches
