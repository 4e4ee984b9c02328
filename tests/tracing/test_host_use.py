"""The model host in traces: which host calls there were, what batches had of them, who waited."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from micro_batch_handler.errors import TraceError
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.tracing.diagnosis import diagnose
from micro_batch_handler.tracing.host_use import (
    HostUse,
    covered_s,
    host_bars,
    host_calls_of,
    served_in_turn,
)
from micro_batch_handler.tracing.recording import Trace, on_one_clock
from micro_batch_handler.tracing.trace_json import from_json, to_json
from tests.tracing.traced import a_row, hosted, scheduled, setup

SETUP = setup((1, 4, 1))


def numbered(batch, worker=0):
    """The calls of a batch, as those of a worker."""
    return [(worker, call) for call in batch.calls]


def slices(text, kind):
    """The slices of one kind in a file."""
    events = json.loads(text)["traceEvents"]
    return [event for event in events if event["ph"] == "X" and event["cat"] == kind]


def test_spans_that_overlap_cover_their_time_once():
    """Also those inside others, and those that are empty."""
    assert covered_s([(3, 4), (0, 2), (0.5, 1), (1, 2.5), (9, 9)]) == 3.5
    assert covered_s([]) == 0


def test_a_host_call_of_several_members_is_one():
    """Each member tells it with times of its own, which differ by nanoseconds once written."""
    one, other = hosted(others=4), hosted(others=4, first=False)
    later = [
        call._replace(host=call.host._replace(began_s=call.host.began_s + 2e-9))
        for call in other.calls
        if call.host is not None
    ]
    bars = host_bars([*numbered(one), *numbered(other._replace(calls=later), 1)])

    assert [(bar.stage, bar.host.rows, bar.own_rows) for bar in bars] == [("inference", 8, 8)] * 2
    assert [[worker for worker, _ in bar.parts] for bar in bars] == [[0, 1], [0, 1]]


def test_host_calls_of_two_stages_are_told_apart():
    """A call of inference tells of the host call of preprocess that its rows had passed."""
    [call, *_] = [call for call in hosted().calls if call.host is not None]
    before = HostCall(4, 1, True, 100.5, 100.6, 100.9)
    both = call._replace(host=call.host._replace(before=before))

    assert [stage for stage, _ in host_calls_of(both)] == ["inference", "preprocess"]
    assert [bar.stage for bar in host_bars([(0, both)])] == ["inference", "preprocess"]


def test_batches_tell_how_they_share_the_host():
    """Two host calls, half of whose rows are of others, after a wait for another call."""
    batch = hosted(wait_s=0.5, call_s=2.0, others=4)

    found = HostUse.of([batch, batch])

    assert batch.wall_s == 1 + 0.5 + 2 + 2 + 0.25
    assert found.asked == pytest.approx(4.5 / 5.75)
    assert found.own == pytest.approx(2 / 5.75)
    assert found.others == pytest.approx(2.5 / 5.75)
    assert found.rows == 8
    assert HostUse.of([scheduled(4, (1, 1, 1), [a_row(1)] * 3)]) is None


def test_calls_that_wait_for_the_host_at_the_same_time_count_as_one_lane():
    """Together they take as long as the host had of their rows."""
    batch = hosted(16, wait_s=0.5, call_s=2.0)

    calls = [call for call in served_in_turn(batch).calls if call.stage == "inference"]

    assert sum(call.ended_s - call.began_s for call in calls) == 0.5 + 4 * 2
    assert all(a.ended_s <= b.began_s for a, b in pairwise(calls))


@pytest.mark.parametrize(
    ("batch", "expected", "said", "unsaid"),
    [
        (
            hosted(32, wait_s=6.0, call_s=2.0, others=12),
            ("inference", "host"),
            [
                "The model host is the bottleneck: it had rows of the batch for 95 % of the time",
                "and computed 17 % for them and 77 % for those of other workers.",
                "More workers do not help",
                "a larger micro_batch_size for inference",
                "they were 16 on average",
            ],
            ["another worker", "intra_op"],
        ),
        (
            hosted(32, wait_s=0.0, call_s=2.0),
            ("inference", "host"),
            ["computed 93 % for them.", "More workers help only while the host has time left"],
            ["of other workers"],
        ),
        (
            hosted(32, prepare_s=3.0, wait_s=1.0, call_s=1.0),
            ("preprocess", "lanes"),
            ["preprocess is the bottleneck", "rows were in the model host while that computed for"],
            ["More workers"],
        ),
        (
            hosted(32, prepare_s=3.0, wait_s=0.0, call_s=1.0),
            ("preprocess", "lanes"),
            ["Add preprocess lanes"],
            ["model host"],
        ),
    ],
)
def test_a_diagnosis_tells_the_part_of_the_host(batch, expected, said, unsaid):
    """Whether the host is what limits, for whom it computes, and when a worker waits for others."""
    found = diagnose([batch], replace(SETUP, batch_size=32))

    assert (found.bottleneck, found.cause) == expected, str(found)
    assert all(text in str(found) for text in said), str(found)
    assert not any(text in str(found) for text in unsaid), str(found)
    assert found.finding.count(".") == 1


def test_the_host_is_in_a_trace_that_is_read_again():
    """Its times to the nanosecond, its rows, and the call of the stage before."""
    before = HostCall(9, 3, False, 100.25, 100.5, 100.75)
    batch = hosted(others=4)
    calls = [
        c if c.host is None else c._replace(host=c.host._replace(before=before))
        for c in batch.calls
    ]
    text = to_json(Trace(SETUP, [batch._replace(calls=calls)]))

    again = from_json(text)

    assert to_json(again) == text
    assert again.clock_s == 100
    [found, *_] = [call.host for call in again.batches[0].calls if call.host is not None]
    assert found == HostCall(8, 2, True, 1.0, 1.5, 3.5, before._replace(
        came_s=0.25, began_s=0.5, ended_s=0.75
    ))  # fmt: skip


def test_the_host_has_a_thread_and_waits_lie_in_their_calls():
    """One slice a host call, with the rows of whom; waits are slices inside those of the calls."""
    text = to_json(Trace(SETUP, [hosted(others=4)]))

    calls, waits, hosts = (slices(text, kind) for kind in ("call", "wait", "host"))
    assert [each["name"] for each in hosts] == ["4 of 8 rows"] * 2
    assert [each["args"]["own_rows"] for each in hosts] == [{"1": 4}] * 2
    assert {each["pid"] for each in hosts} == {2}
    assert len(waits) == 2
    for wait in waits:
        assert any(
            call["tid"] == wait["tid"]
            and call["ts"] <= wait["ts"]
            and wait["ts"] + wait["dur"] <= call["ts"] + call["dur"]
            for call in calls
        )


def test_traces_of_several_workers_share_a_clock_and_a_host():
    """Each was written with times from its own first batch."""
    one = from_json(to_json(Trace(SETUP, [hosted(others=4)])))
    other = hosted(began_s=99.5, prepare_s=1.5, wait_s=0.5, others=4, first=False)
    other = from_json(to_json(Trace(SETUP, [other])))

    traces = on_one_clock([one, other])
    text = to_json(*traces)

    assert [trace.batches[0].began_s for trace in traces] == [0.5, 0]
    assert [each["ts"] for each in slices(text, "batch")] == [5e5, 0]
    assert [each["args"]["own_rows"] for each in slices(text, "host")] == [{"1": 4, "2": 4}] * 2
    with pytest.raises(TraceError, match="of several workers; give the files that they wrote"):
        from_json(text)


def test_an_older_trace_is_read_and_stands_alone():
    """It tells neither of a host nor when it began."""
    whole = json.loads(to_json(Trace(setup(), [scheduled(4, (1, 1, 1), [a_row(1)] * 3)])))
    del whole["otherData"]["clock_s"]

    old = from_json(json.dumps(whole))

    assert old.clock_s is None
    assert HostUse.of(old.batches) is None
    assert json.loads(to_json(old)) == whole
    with pytest.raises(TraceError, match="can only stand alone"):
        on_one_clock([old, old])


def test_a_hosted_batch_that_ran_whole_is_judged():
    """The caller's thread asked the host itself."""
    batch = hosted(4, wait_s=3.0, call_s=5.0, others=8)
    calls = [call._replace(thread="caller") for call in batch.calls]

    found = diagnose([batch._replace(calls=calls)], setup((1, 4, 1), 8))

    assert found.cause == "host"
    assert "computed 18 % for them and 68 % for those of other workers." in found.finding
