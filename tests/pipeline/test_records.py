"""What is recorded of a batch: every call, its rows, its lane, its times."""

from __future__ import annotations

from collections import Counter

import pytest

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.call import INLINE
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.requests import Requests
from tests.fakes import ManualClock, plan, stages


def timed(clock: ManualClock, **seconds: float) -> dict:
    """Stages whose calls take so many seconds of the clock."""

    def taking(name):
        def call(payload):
            clock.advance(seconds.get(name, 0.0))
            return list(payload)

        return call

    return stages(*(taking(stage) for stage in STAGES))


def run(rows: int, sizes, functions, clock=None, **pipeline):
    """The records of one batch."""
    with Pipeline(functions, PerStage(1, 1, 1), clock=clock, **pipeline) as running:
        return running.run(list(range(rows)), plan(*sizes)).calls


def test_every_call_is_recorded_with_its_rows_and_its_lane():
    """One record for each micro-batch and stage, whoever made the call."""
    calls = run(5, (2, 5, 1), stages())

    rows = {stage: sorted(list(c.indices) for c in calls if c.stage == stage) for stage in STAGES}
    assert rows["preprocess"] == [[0, 1], [2, 3], [4]]
    assert rows["inference"] == [[0, 1, 2, 3, 4]]
    assert rows["postprocess"] == [[0], [1], [2], [3], [4]]
    assert {c.thread for c in calls} == {f"mbh-{stage}-0" for stage in STAGES}
    assert not any(c.failed for c in calls)


def test_a_micro_batch_that_waits_for_a_lane_shows_how_long():
    """Three are ready at once; with one lane of 2 s a call, the last has waited for 4 s."""
    clock = ManualClock()
    calls = run(3, (1, 3, 3), timed(clock, preprocess=2.0), clock)

    first = [c for c in calls if c.stage == "preprocess"]
    assert [(c.ready_s, c.began_s, c.ended_s) for c in first] == [(0, 0, 2), (0, 2, 4), (0, 4, 6)]
    assert [(c.ready_s, c.began_s) for c in calls if c.stage == "inference"] == [(6, 6)]


def test_a_whole_batch_has_three_records_one_after_the_other():
    """Where nothing is handed over, nothing waits."""
    clock = ManualClock()
    calls = run(4, (4,), timed(clock, preprocess=1.0, inference=2.0, postprocess=3.0), clock)

    assert [tuple(c)[2:6] for c in calls] == [
        (INLINE, 0, 0, 1),
        (INLINE, 1, 1, 3),
        (INLINE, 3, 3, 6),
    ]


@pytest.mark.parametrize("sizes", [(4,), (2,)])
def test_calls_that_fail_are_recorded_and_marked(sizes):
    """Of a guilty row all calls alone are there, and those that it made fail for others."""

    def guilty(payload):
        if 2 in payload:
            raise ValueError
        return list(payload)

    calls = run(4, sizes, stages(inference=guilty))

    failed = [list(c.indices) for c in calls if c.failed]
    assert {c.stage for c in calls if c.failed} == {"inference"}
    assert all(2 in indices for indices in failed)
    assert failed.count([2]) == (2 if sizes == (4,) else 3)  # a last one outside of its lane
    good = Counter(i for c in calls if not c.failed and c.stage == "postprocess" for i in c.indices)
    assert good == Counter([0, 1, 3])


def test_a_call_that_was_given_up_is_recorded_as_failed():
    """Its record ends when it was given up, not when it returns."""
    from tests.pipeline.test_watch import GATE_S, Hanging

    with Hanging("inference", {2}) as hanging:
        caller = hanging.start(list(range(4)))
        hanging.entered.acquire()
        hanging.clock.advance(31)
        caller.join(GATE_S)

        [given_up] = [c for c in hanging.outcomes.calls if c.failed]
        assert list(given_up.indices) == [2, 3]
        assert given_up.ended_s == 31


def test_a_request_that_cannot_be_decoded_does_not_hide_how_long_others_have_waited():
    """Its neighbour waits for the lane as long as it would have without it."""
    clock = ManualClock()

    def decode(index, row):
        if index == 2:
            raise ValueError
        return row

    with Pipeline(timed(clock, preprocess=2.0), PerStage(1, 1, 1), clock=clock) as pipeline:
        calls = pipeline.run(Requests([0, 1, 2, 3], decode), plan(2)).calls

    first = [c for c in calls if c.stage == "preprocess"]
    assert [(list(c.indices), c.ready_s, c.began_s) for c in first] == [([0, 1], 0, 0), ([3], 0, 2)]


def test_a_pipeline_inside_a_stage_of_another_makes_its_calls_inline():
    """A call is inline where its thread runs the batch, though that is a lane of another one."""
    threads = []
    with Pipeline(stages(), PerStage(1, 1, 1)) as inner:

        def inference(payload):
            outcomes = inner.run(list(payload), plan(9))
            threads.extend(call.thread for call in outcomes.calls)
            return outcomes.answers

        run(2, (1,), stages(inference=inference))

    assert set(threads) == {INLINE}
