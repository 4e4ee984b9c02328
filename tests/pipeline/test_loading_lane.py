"""A handler that was loaded in a lane is called there, where no other thread will do."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from harness.crowd import together
from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.pipeline.call import INLINE
from micro_batch_handler.pipeline.loading_lane import LoadingLane, current_loading_lane
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import ManualClock, plan, stages

GATE_S = 30
ROWS = list(range(8))


@contextmanager
def loaded_in(lane, inference, **settings):
    """A pipeline that was made in this lane; its inference is called with a payload."""
    functions = stages()
    functions["inference"] = lambda _tag, _call, payload: (inference(payload), None)
    with lane.do(lambda: Pipeline(functions, PerStage(1, 1, 1), **settings)) as pipeline:
        yield pipeline
    assert lane.do(current_loading_lane) is lane  # whoever made the lane ends it
    lane.close()


def only_in(lane, also=()):
    """An inference that fails in any other thread, and on rows that are in `also`."""

    def inference(payload):
        if current_loading_lane() is not lane:
            raise RuntimeError("not my thread")
        if set(payload) & set(also):
            raise ValueError(*also)
        return list(payload)

    return inference


@pytest.mark.parametrize("stage_timeout_s", [None, 60])
@pytest.mark.parametrize("size", [2, 8])
def test_what_fails_elsewhere_is_answered_where_it_was_loaded(stage_timeout_s, size):
    """All but the bad row of each of several batches at once, cut or not, bounded or not."""
    lane = LoadingLane()
    inference = only_in(lane, also=[3])
    with loaded_in(lane, inference, stage_timeout_s=stage_timeout_s) as pipeline:
        found = together(4, lambda _: pipeline.run(ROWS, plan(size)))

    for outcomes in found:
        assert outcomes.failures.keys() == {3}
        assert isinstance(outcomes.failures[3].error, ValueError)
        assert [outcomes.answers[row] for row in ROWS if row != 3] == [0, 1, 2, 4, 5, 6, 7]


def test_what_must_not_be_cut_is_called_where_it_was_loaded():
    """Each group passes all stages there, the first time already."""
    lane = LoadingLane()
    threads = []

    def inference(payload):
        threads.append(threading.current_thread().name)
        return list(payload)

    with loaded_in(lane, inference) as pipeline:
        outcomes = pipeline.run(ROWS, plan(2), serial=[range(4), range(4, 8)])

    assert outcomes.answers == ROWS
    assert threads == ["mbh-loading-0"] * 2
    assert {call.thread for call in outcomes.calls} == {INLINE}, "for traces"


def test_what_calls_the_stages_by_itself_is_called_where_it_was_loaded():
    """As an explanation is; from that lane too."""
    lane = LoadingLane()
    inference = only_in(lane)
    with loaded_in(lane, inference) as pipeline:
        assert pipeline.call_alone(lambda: inference(ROWS)) == ROWS
        assert lane.do(lambda: pipeline.call_alone(lambda: inference(ROWS))) == ROWS


def test_a_batch_of_the_lane_itself_does_not_wait_for_it():
    """As when a handler warms its model up while it is loaded."""
    lane = LoadingLane()
    with loaded_in(lane, only_in(lane)) as pipeline:
        outcomes = lane.do(lambda: pipeline.run(ROWS, plan(2), bounded=False))

    assert outcomes.answers == ROWS


def test_a_call_that_hangs_there_costs_its_own_requests_only():
    """The rest is called in another thread, the next batch is served, and the loss is told."""
    lane = LoadingLane()
    clock, gate, entered = ManualClock(), threading.Event(), threading.Semaphore(0)
    failed = set()

    def inference(payload):
        if 3 in payload and threading.current_thread().name == "mbh-loading-0" and len(failed) > 1:
            entered.release()
            gate.wait(GATE_S)
        if {3, 5} & set(payload) and current_loading_lane() is not lane:
            failed.update(payload)
            raise RuntimeError("not my thread")
        return list(payload)

    with loaded_in(lane, inference, stage_timeout_s=30, clock=clock) as pipeline:
        found = []
        caller = threading.Thread(
            target=lambda: found.append(pipeline.run(ROWS, plan(2))), daemon=True
        )
        caller.start()
        assert entered.acquire(timeout=GATE_S)
        assert not pipeline.has_lost(any_lane=True)
        clock.advance(31)
        caller.join(GATE_S)
        gate.set()  # the call comes back, and its thread ends: it is not the loading lane any more

        assert found[0].failures.keys() == {3}
        assert isinstance(found[0].failures[3].error, StageTimeout)
        assert not found[0].fatal
        assert pipeline.has_lost(any_lane=False)
        assert pipeline.run([7, 8], plan(2)).answers == [7, 8]
