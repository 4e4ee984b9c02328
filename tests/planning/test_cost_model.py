"""What batches have taken, what to expect of the next, and what that decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.simulated import HAND_OVER_S
from micro_batch_handler.planning.cost_model import Observations
from micro_batch_handler.planning.decision import decide
from micro_batch_handler.planning.sizes import SizeOptions


@pytest.fixture
def observations():
    """Of a pipeline with a lane for each stage, and calls that are not padded."""
    return Observations([1, 1, 1], HAND_OVER_S, lambda rows: rows)


def whole(observations, rows, call_s, seconds=None):
    """A batch that ran unsplit; each stage's call takes so long."""
    calls = [[(rows, call_s)]] * 3
    observations.add(rows, (rows,) * 3, seconds or 3 * call_s, calls, split=False)


def test_calls_in_lanes_do_not_change_what_calls_cost_alone(observations):
    """Three times as slow among others, a call costs what it did in an unsplit batch."""
    for rows in (8, 16, 32) * 5:
        whole(observations, rows, 0.002 + 0.001 * rows)
        calls = [[(size, 3 * (0.002 + 0.001 * size)) for size in (4, 8)]] * 3
        observations.add(rows, (4, 8, 8), 0.2, calls, split=True)
    model = observations.model()

    assert pytest.approx(0.018, rel=0.01) == model.inline[0](16)
    assert pytest.approx(0.054, rel=0.01) == model.lanes[0](16)


def test_calls_among_others_are_never_taken_to_be_cheaper_than_alone(observations):
    """A few calls in lanes that look free for small sizes do not make them so."""
    for rows in (8, 16, 32) * 5:
        whole(observations, rows, 0.010 + 0.001 * rows)
        calls = [[(size, 0.004 * size) for size in (8, 16)]] * 3
        observations.add(64, (8, 16, 16), 0.1, calls, split=True)
    model = observations.model()

    assert pytest.approx(0.0, abs=1e-6) == model.lanes[0].line.fixed_s
    assert pytest.approx(0.011, rel=0.01) == model.lanes[0](1)
    assert pytest.approx(0.064, rel=0.01) == model.lanes[0](16)


def test_plans_reach_half_as_far_down_as_calls_were_seen(observations):
    """Sizes below half the smallest seen, more than once, wait until that has been tried."""
    for _ in range(3):
        whole(observations, 32, 0.01)
    assert (16, 16, 16) == observations.model().least

    observations.add(32, (8, 16, 32), 0.03, [[(8, 0.01)] * 4, [(16, 0.01)] * 2, []], split=True)
    known = observations.model()
    assert (4, 8, 16) == known.least

    observations.add(32, (3, 16, 32), 0.03, [[(2, 0.01)], [], []], split=True)
    assert (4, 8, 16) == observations.model().least


def test_a_slower_machine_is_slower_for_the_calls_that_are_not_made_now(observations):
    """While all batches run unsplit, what calls in lanes cost follows in proportion."""
    for _ in range(15):
        whole(observations, 32, 0.01)
        calls = [[(16, 0.008)] * 2] * 3
        observations.add(32, (16, 16, 16), 0.03, calls, split=True)
    assert pytest.approx(0.008) == observations.model().lanes[0](16)
    for _ in range(15):
        whole(observations, 32, 0.02)

    assert pytest.approx(0.016) == observations.model().lanes[0](16)


def test_batches_that_take_longer_than_their_calls_would_are_corrected(observations):
    """By size of batch where there were enough, else by all of the kind."""
    for _ in range(5):
        whole(observations, 32, 0.01, seconds=0.036)
        whole(observations, 4, 0.01, seconds=0.030)
    model = observations.model()

    assert pytest.approx(1.2) == model.correction(32, split=False)
    assert pytest.approx(1.0) == model.correction(4, split=False)
    assert pytest.approx(1.1) == model.correction(100, split=False)
    assert model.correction(32, split=True) == 1.0


def test_nothing_is_expected_before_every_stage_was_called(observations):
    """A batch of which one stage's calls are missing does not make a model."""
    observations.add(4, (4, 4, 4), 0.1, [[(4, 0.1)], [(4, 0.1)], []], split=False)

    assert observations.model() is None


@pytest.mark.parametrize(("gain", "splits"), [(0.10, True), (0.02, False), (-0.5, False)])
def test_splitting_must_promise_more_than_predictions_err(observations, config_of, gain, splits):
    """A promise of 2 % is not enough to begin, but to go on; a loss ends it."""
    for rows in (8, 16, 32) * 5:
        whole(observations, rows, 0.001 * rows)
    choices = SizeOptions(config_of())
    model = observations.model()
    free = decide(32, choices, model, None, version=1, searched=1)
    assert free.splits
    promise = (1 - gain) * free.whole_s / free.split_s
    model = replace(model, corrections={**model.corrections, (True, -1): promise})

    assert splits == decide(32, choices, model, None, version=2, searched=1).splits
    assert (gain > 0) == decide(32, choices, model, free, version=2, searched=1).splits
