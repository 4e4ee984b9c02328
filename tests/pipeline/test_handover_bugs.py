"""Defects that the model of the hand-over found, each shown on the real pipeline."""

from __future__ import annotations

import threading

from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import DeadlinePassed, StageTimeout
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import ManualClock, plan, stages

GATE_S = 10
"""How long a gate may take to open before a test fails; never reached when the code is right."""


def test_what_a_passed_deadline_frees_is_not_lost_with_the_lane_that_hangs():
    """Row 2's deadline frees the group of 0 and 1; the lane that saw it then hangs on row 3."""
    clock = ManualClock()
    gate, entered = threading.Event(), threading.Event()
    found = []

    def preprocess(rows):
        if 0 in rows:
            clock.advance(1)
        if 3 in rows:
            entered.set()
            gate.wait(GATE_S)
        return list(rows)

    with Pipeline(stages(preprocess), PerStage(1, 1, 1), stage_timeout_s=30, clock=clock) as lanes:
        deadlines_s = [None, None, 0.5, None]
        caller = threading.Thread(
            target=lambda: found.append(lanes.run([0, 1, 2, 3], plan(2, 3), None, deadlines_s)),
            daemon=True,
        )
        caller.start()
        assert entered.wait(GATE_S)
        clock.advance(31)
        caller.join(GATE_S)
        gate.set()

    assert found, "the caller waits for ever"
    assert [DeadlinePassed, StageTimeout] == [
        type(found[0].failures[row].error) for row in sorted(found[0].failures)
    ]
    assert [0, 1] == found[0].answers[:2]


def test_what_a_passed_deadline_frees_does_not_wait_for_the_next_call():
    """The group that a passed deadline completes goes on while its lane makes its own call."""
    clock = ManualClock()
    met = threading.Event()
    waited = []

    def preprocess(rows):
        if 0 in rows:
            clock.advance(1)
        if 3 in rows:
            waited.append(met.wait(GATE_S))
        return list(rows)

    def inference(rows):
        if 0 in rows:
            met.set()
        return list(rows)

    with Pipeline(stages(preprocess, inference), PerStage(1, 1, 1), clock=clock) as lanes:
        lanes.run([0, 1, 2, 3], plan(2, 3), None, [None, None, 0.5, None])

    assert waited == [True]
