"""What calls cost, whole and in lanes, and what a batch takes by that."""

from __future__ import annotations

import pytest

from harness.simulated import HAND_OVER_S
from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.cost_curve import Curve, Line
from micro_batch_handler.planning.cost_model import CostModel, Observations
from micro_batch_handler.planning.plan import Plan

ONE_EACH = (1, 1, 1)


@pytest.fixture
def observations():
    """Of a pipeline with a lane for each stage, and calls that are not padded."""
    return Observations(ONE_EACH, lambda rows: rows, HAND_OVER_S)


def add(observations, calls, *, inline):
    """A batch with these calls: for each stage, rows and seconds."""
    for stage, made in zip(STAGES, calls, strict=True):
        for rows, seconds in made:
            observations.observe(stage, rows, seconds)
    observations.batch_ended(None if inline else ONE_EACH)


def whole(observations, rows, call_s):
    """A whole batch; each stage's call takes so long."""
    add(observations, [[(rows, call_s)]] * 3, inline=True)


def add_in_lanes(observations, lanes, made):
    """A batch in so many lanes, with these calls of each stage."""
    for stage in STAGES:
        for rows, seconds in made:
            observations.observe(stage, rows, seconds)
    observations.batch_ended(lanes)


def test_calls_in_lanes_do_not_change_what_calls_cost_alone(observations):
    """Three times as slow among others, a call costs what it did in a whole batch."""
    for rows in (8, 16, 32) * 5:
        whole(observations, rows, 0.002 + 0.001 * rows)
        calls = [[(size, 3 * (0.002 + 0.001 * size)) for size in (4, 8)]] * 3
        add(observations, calls, inline=False)
    model = observations.model()

    assert pytest.approx(0.018, rel=0.01) == model.inline[0](16)
    assert pytest.approx(0.054, rel=0.01) == model.in_lanes(0, 1)(16)


def test_calls_among_others_are_never_taken_to_be_cheaper_than_alone(observations):
    """A few calls in lanes that look free for small sizes do not make them so."""
    for rows in (1, 8, 16, 32) * 5:
        whole(observations, rows, 0.010 + 0.001 * rows)
        calls = [[(size, 0.004 * size) for size in (8, 16)]] * 3
        add(observations, calls, inline=False)
    model = observations.model()

    assert pytest.approx(0.0, abs=1e-6) == model.in_lanes(0, 1).line.fixed_s
    assert pytest.approx(0.011, rel=0.01) == model.in_lanes(0, 1)(1)
    assert pytest.approx(0.064, rel=0.01) == model.in_lanes(0, 1)(16)


def test_plans_reach_half_as_far_down_as_calls_were_seen(observations):
    """Sizes below half the smallest seen, more than once, wait until that has been tried."""
    for _ in range(3):
        whole(observations, 32, 0.01)
    assert (16, 16, 16) == observations.model().least

    add(observations, [[(8, 0.01)] * 4, [(16, 0.01)] * 2, []], inline=False)
    known = observations.model()
    assert (4, 8, 16) == known.least

    add(observations, [[(2, 0.01)], [], []], inline=False)
    assert (4, 8, 16) == observations.model().least


def test_a_slower_machine_is_slower_for_the_calls_that_are_not_made_now(observations):
    """While all batches are whole, what calls in lanes cost follows in proportion."""
    for _ in range(15):
        whole(observations, 32, 0.01)
        calls = [[(16, 0.008)] * 2] * 3
        add(observations, calls, inline=False)
    assert pytest.approx(0.008) == observations.model().in_lanes(0, 1)(16)
    for _ in range(15):
        whole(observations, 32, 0.02)

    assert pytest.approx(0.016) == observations.model().in_lanes(0, 1)(16)


def test_nothing_is_expected_before_every_stage_was_called(observations):
    """A batch of which one stage's calls are missing does not make a model."""
    add(observations, [[(4, 0.1)], [(4, 0.1)], []], inline=True)

    assert observations.model() is None


def test_a_model_tells_what_a_batch_takes_with_any_plan():
    """A whole batch is the sum of its calls, a split one their schedule in the lanes."""
    inline, lanes = Curve(Line(0.001, 0.001)), Curve(Line(0.002, 0.001))
    model = CostModel([inline] * 3, [{1: lanes}] * 3, ONE_EACH, lambda rows: rows, hand_over_s=0.0)
    forecast = model.forecast(8)

    assert model.batch_s(Plan.of(8), forecast) == pytest.approx(3 * 0.009)
    assert model.batch_s(Plan.of(4), forecast) == pytest.approx(4 * 0.006)


def test_at_best_a_smaller_call_costs_its_share():
    """No fixed cost is left, only what handing over takes."""
    inline = Curve(Line(0.009, 0.0))
    model = CostModel([inline] * 3, [{}] * 3, ONE_EACH, lambda rows: rows, hand_over_s=0.001)

    assert model.at_best(9).finish_s(Plan.of(3)) == pytest.approx(5 * (0.003 + 0.001))


def test_a_call_smaller_than_any_that_was_seen_is_taken_to_cost_its_share():
    """Calls in several lanes may look all fixed cost; only smaller ones can tell."""
    observations = Observations((2, 1, 1), lambda rows: rows, HAND_OVER_S)
    for _ in range(5):
        whole(observations, 32, 0.02)
        add_in_lanes(observations, (2, 1, 1), [(16, 0.02)] * 2)
    model = observations.model()

    assert model.in_lanes(1, 1)(8) == pytest.approx(0.02)
    found = model.in_lanes(0, 2)

    assert found(16) == pytest.approx(0.02)
    assert found(8) == pytest.approx(0.01)


@pytest.mark.parametrize(("at_once", "slower"), [(1, 1.0), (2, 2.0), (4, 4.0), (8, 4.0)])
def test_numbers_of_calls_at_once_not_tried_yet_are_held_up_in_proportion(at_once, slower):
    """Four calls that wait for one another tell what two would do; of more the best is hoped."""
    observations = Observations((8, 1, 1), lambda rows: rows, HAND_OVER_S)
    for _ in range(5):
        whole(observations, 32, 0.032)
        whole(observations, 16, 0.016)
        add_in_lanes(observations, (4, 1, 1), [(8, 0.032)] * 4)
    found = observations.model().in_lanes(0, at_once)

    assert found(8) == pytest.approx(slower * 0.008)


def test_calls_beside_others_are_learned_apart(observations):
    """What a call takes alone in its stage stays as it is while two at once take longer."""
    observations = Observations((2, 1, 1), lambda rows: rows, HAND_OVER_S)
    for _ in range(5):
        whole(observations, 32, 0.032)
        add_in_lanes(observations, (1, 1, 1), [(8, 0.008)] * 4)
        add_in_lanes(observations, (2, 1, 1), [(8, 0.012)] * 4)
    model = observations.model()

    assert model.in_lanes(0, 1)(8) == pytest.approx(0.008)
    assert model.in_lanes(0, 2)(8) == pytest.approx(0.012)


def test_one_call_of_a_stage_has_none_beside_it(observations):
    """However many lanes there are."""
    observations = Observations((8, 1, 1), lambda rows: rows, HAND_OVER_S)
    add_in_lanes(observations, (8, 1, 1), [(32, 0.032)])

    assert list(observations.model().beside[0]) == [1]
