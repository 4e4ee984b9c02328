"""Requests that their clients no longer wait for."""

from __future__ import annotations

import pytest

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import DeadlinePassed
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.torchserve.deadlines import deadlines_s
from tests.fakes import ManualClock, fake_context, plan, stages

HEADER = "x-envoy-expected-rq-timeout-ms"


@pytest.mark.parametrize("sizes", [(1, 4, 2), (4, 4, 4), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_a_request_leaves_before_the_stage_after_its_deadline(stage, sizes):
    """A deadline that passes while the stage before runs costs no call more, and no neighbour."""
    clock = ManualClock()
    seen: dict[str, list] = {name: [] for name in STAGES}

    def note(name):
        def call(payload):
            seen[name] += list(payload)
            if STAGES.index(name) == STAGES.index(stage) - 1:
                clock.advance(1)
            return list(payload)

        return call

    clock.advance(5 if stage == "preprocess" else 0)
    deadlines = [None, 0.5, 100.0, 0.5, None, None, 0.5, None]
    functions = stages(*(note(name) for name in STAGES))
    with Pipeline(functions, PerStage(1, 1, 1), clock=clock) as pipeline:
        outcomes = pipeline.run(list(range(8)), plan(*sizes), deadlines_s=deadlines)

    assert {1, 3, 6} == outcomes.failures.keys()
    error = outcomes.failures[1].error
    assert isinstance(error, DeadlinePassed)
    assert not {1, 3, 6} & set(seen[stage])
    assert [0, 2, 4, 5, 7] == [outcomes.answers[i] for i in (0, 2, 4, 5, 7)]


def test_a_request_that_comes_too_late_in_an_uncut_batch_is_answered_with_it():
    """Nothing is cut out of a payload that was to stay whole; it stops when nobody waits at all."""
    clock = ManualClock()

    class Opaque:
        def __init__(self, rows):
            clock.advance(1)
            self.rows = rows

    functions = stages(Opaque, lambda opaque: opaque, lambda opaque: opaque.rows)
    with Pipeline(functions, PerStage(1, 1, 1), clock=clock) as pipeline:
        outcomes = pipeline.run([0, 1, 2], plan(3), deadlines_s=[None, clock.now_s() + 0.5, None])
        late = pipeline.run([0, 1], plan(2), deadlines_s=[clock.now_s() + 0.5] * 2)

    assert [0, 1, 2] == outcomes.answers
    assert {("inference", DeadlinePassed)} == {
        (failure.stage, type(failure.error)) for failure in late.failures.values()
    }


@pytest.mark.parametrize(
    ("value", "deadline_s"),
    [("250", 10.25), ("0", 10.0), ("1.5", 10.0015), ("soon", None), ("nan", None), ("inf", None)],
)
def test_the_header_holds_milliseconds(value, deadline_s):
    """A number of milliseconds from now; what is no number is ignored."""
    context = fake_context(2, headers=[{HEADER: value}, {}])

    found = deadlines_s(context, 2, HEADER, now_s=10.0)

    assert found == (None if deadline_s is None else [pytest.approx(deadline_s), None])


def test_headers_are_found_in_any_case():
    """Clients spell the names of headers as they like."""
    context = fake_context(1, headers=[{"X-Envoy-Expected-Rq-Timeout-Ms": "100"}])

    assert [pytest.approx(0.1)] == deadlines_s(context, 1, HEADER, now_s=0.0)


def test_no_header_means_no_deadlines():
    """Without the header, or with the key set to null, nothing is looked at."""
    assert deadlines_s(fake_context(2), 2, HEADER, now_s=0.0) is None
    assert deadlines_s(fake_context(1, headers=[{HEADER: "1"}]), 1, None, now_s=0.0) is None
