"""Traces as Chrome's events: valid, complete, and the same when they are read again."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.tracing.lane_use import (
    critical_path,
    idle_spans,
    lane_names,
    waiting,
    with_sources,
)
from micro_batch_handler.tracing.recording import Trace, TracedBatch
from micro_batch_handler.tracing.trace_json import from_json, to_json
from tests.fakes import plan, stages
from tests.tracing.traced import a_row, scheduled, setup

LANES = (2, 1, 2)


def real_batch(rows: int, sizes, **functions) -> TracedBatch:
    """A batch of a real pipeline, in real time."""
    clock = Clock()
    with Pipeline(stages(**functions), PerStage(*LANES), clock=clock) as pipeline:
        began_s = clock.now_s()
        outcomes = pipeline.run(list(range(rows)), plan(*sizes))
        record = BatchRecord(rows, plan(*sizes), began_s, clock.now_s(), outcomes)
        return TracedBatch.of(record)


def a_trace() -> Trace:
    """Two computed batches and two real ones, of which one has a guilty row and one is whole."""

    def guilty(payload):
        if 2 in payload:
            raise ValueError
        return list(payload)

    costs = [a_row(0.25), a_row(0.125), a_row(0.5)]
    batches = [
        scheduled(8, (1, 4, 2), costs, LANES, began_s=2.0),
        scheduled(3, (4, 4, 4), costs, LANES, began_s=10.0),
        real_batch(6, (2, 3, 1), inference=guilty),
        real_batch(2, (2, 2, 2)),
    ]
    threads = IntraOpThreads(PerStage(1, 3, 2), 4)
    settings = setup(LANES, 8, threads=threads, on_device=True, pads=True)
    return Trace(settings, sorted(batches, key=lambda batch: batch.began_s))


def events(trace: Trace) -> dict[str, list[dict]]:
    """What a viewer reads, by the kind of event."""
    found = defaultdict(list)
    for event in json.loads(to_json(trace))["traceEvents"]:
        found[event["ph"]].append(event)
    return found


def test_a_trace_is_the_same_when_it_is_read_again():
    """All of it: settings, batches, calls with rows, lanes, waits and faults, to the nanosecond."""
    trace = a_trace()
    text = to_json(trace)

    again = from_json(text)

    assert again.setup == trace.setup
    assert to_json(again) == text
    for batch, other in zip(trace.batches, again.batches, strict=True):
        assert (batch.rows, batch.plan) == (other.rows, other.plan)
        assert [c[:3] for c in batch.calls] == [c[:3] for c in other.calls]
        assert [c.failed for c in batch.calls] == [c.failed for c in other.calls]
        assert batch.wall_s == pytest.approx(other.wall_s, abs=2e-9)


def test_a_trace_of_before_is_read():
    """Its threads in a whole batch have another name."""
    trace = a_trace()
    before = to_json(trace).replace('"whole"', '"unsplit"')

    assert from_json(before).setup == trace.setup


def test_threads_are_named_and_slices_lie_in_their_batch():
    """One thread for batches, one for the caller, one a lane, idle lanes too."""
    trace = a_trace()
    found = events(trace)

    names = {e["tid"]: e["args"]["name"] for e in found["M"] if e["name"] == "thread_name"}
    lanes = [f"mbh-{stage}-{n}" for stage, count in zip(STAGES, LANES, strict=True)
             for n in range(count)]  # fmt: skip
    assert list(names.values()) == ["batches", "caller", *lanes]
    # Perfetto takes thread 0 of a process for its main thread, too, and draws both as one.
    assert min(names) == found["M"][0]["pid"] == 1
    batches = [e for e in found["X"] if e["cat"] == "batch"]
    calls = [e for e in found["X"] if e["cat"] == "call"]
    assert min(e["ts"] for e in batches) == 0
    assert len(calls) == sum(len(batch.calls) for batch in trace.batches)
    for call in calls:
        batch = batches[call["args"]["batch"]]
        assert batch["ts"] <= call["ts"] <= call["ts"] + call["dur"] <= batch["ts"] + batch["dur"]
        assert call["args"]["rows"] == sorted(call["args"]["rows"])
        assert call["args"]["wait_ms"] >= 0


def test_flows_lead_from_the_calls_that_rows_came_from_to_those_that_took_them():
    """Each arrow begins and ends in a slice, whose calls share rows."""
    found = events(a_trace())
    starts = {e["id"]: e for e in found["s"]}
    ends = {e["id"]: e for e in found["f"]}

    def call_at(event):
        [call] = [e for e in found["X"] if e["tid"] == event["tid"] and e["cat"] == "call"
                  and e["ts"] <= event["ts"] and event["ts"] <= e["ts"] + e["dur"]
                  and (event["ph"] == "s" or e["ts"] == event["ts"])][-1:]  # fmt: skip
        return call["args"]

    assert starts.keys() == ends.keys()
    assert starts
    for number, start in starts.items():
        source, taker = call_at(start), call_at(ends[number])
        assert STAGES.index(taker["stage"]) == STAGES.index(source["stage"]) + 1
        assert set(source["rows"]) & set(taker["rows"])


def test_rows_that_start_again_come_from_the_call_that_succeeded():
    """A call that failed gives nobody rows."""
    batch = real_batch(4, (2, 2, 2), inference=lambda p: [1 / (3 - row) for row in p])

    for call, sources in with_sources(batch.calls):
        assert not any(source.failed for source in sources)
        if call.stage == "inference":
            assert {row for s in sources for row in s.indices} >= set(call.indices)


def test_busy_and_idle_make_the_whole_batch_in_each_lane():
    """No lane does two things at once, and no time is missing."""
    trace = a_trace()
    for batch in trace.batches:
        for name in lane_names(trace):
            own = [call for call in batch.calls if call.thread == name]
            busy_s = sum(call.ended_s - call.began_s for call in own)
            idle_s = sum(ended_s - began_s for began_s, ended_s in idle_spans(batch, name))
            assert busy_s + idle_s == pytest.approx(batch.wall_s, abs=1e-9)


def test_what_waits_for_a_stage_is_counted():
    """Four are ready at once for two lanes; the first two do not wait."""
    batch = scheduled(4, (1, 4, 4), [a_row(1), a_row(1), a_row(1)], LANES)

    assert waiting(batch, "preprocess") == [((0, 1), 2)]
    assert waiting(batch, "inference") == []


def test_the_critical_path_is_what_the_end_waited_for():
    """Through the lane that is always busy, then through the rows; it is as long as the batch."""
    batch = scheduled(4, (1, 1, 1), [a_row(1), a_row(3), a_row(1)])

    path = critical_path(batch)

    assert [(c.stage[:3], *c.indices) for c in path] == [
        ("pre", 0), ("inf", 0), ("inf", 1), ("inf", 2), ("inf", 3), ("pos", 3)
    ]  # fmt: skip
    assert sum(c.ended_s - c.began_s for c in path) == batch.wall_s
    assert critical_path(batch._replace(calls=[])) == []


def test_a_lane_that_was_replaced_does_not_hide_another():
    """As many as there are, under the names they have; the idle ones by the first free names."""
    batch = scheduled(2, (1, 1, 1), [a_row(1)] * 3, LANES)
    calls = [c._replace(thread=c.thread.replace("preprocess-0", "preprocess-2"))
             for c in batch.calls]  # fmt: skip
    names = lane_names(Trace(setup(LANES), [batch._replace(calls=calls)]))

    assert names[:2] == ["mbh-preprocess-1", "mbh-preprocess-2"]
    assert len(names) == sum(LANES)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"traceEvents": []}', '{"traceEvents": [], "otherData": {"a": 1}}', "\xff"],
)
def test_another_file_is_refused(text):
    """The message says what is wanted."""
    with pytest.raises(TraceError, match="no trace of this package"):
        from_json(text)


def test_a_trace_of_another_version_is_refused():
    """It may mean something else."""
    text = to_json(a_trace()).replace('"micro_batch_handler":1', '"micro_batch_handler":2')

    with pytest.raises(TraceError, match="another version"):
        from_json(text)
