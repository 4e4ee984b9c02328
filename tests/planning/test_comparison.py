"""Which plan is fastest, found by letting plans take turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro_batch_handler.planning.comparison import Comparison
from micro_batch_handler.planning.plan import Plan

WHOLE, HALVES, QUARTERS = Plan.of(32), Plan.of(16), Plan.of(8)
USUAL_S = 1.0


def run(comparison: Comparison, seconds: Callable[[Plan], float], batches: int) -> list[Plan]:
    """Run batches; returns their plans.

    Args:
        comparison: that says whose turn it is.
        seconds: of a batch with a plan.
        batches: to run.
    """
    ran = []
    for _ in range(batches):
        ran.append(comparison.turn())
        comparison.add(ran[-1], seconds(ran[-1]))
    return ran


def started(candidate: Plan = HALVES) -> Comparison:
    """A comparison in which whole batches take a second, and a candidate that begins now."""
    comparison = Comparison(32, WHOLE)
    run(comparison, lambda _: USUAL_S, 3)
    comparison.start(candidate)
    return comparison


def taking(seconds: float) -> Callable[[Plan], float]:
    """Any plan but the whole batch takes so long."""
    return lambda plan: USUAL_S if plan == WHOLE else seconds


def test_a_plan_that_is_always_faster_comes_into_force_soon():
    """A clear gain is taken after a few turns, and its time is known from them."""
    comparison = started()

    run(comparison, taking(0.9), 8)

    assert comparison.in_force == HALVES
    assert comparison.seconds(HALVES) == 0.9


def test_a_plan_that_is_always_slower_is_dropped_after_two_turns():
    """A clear loss costs no more batches than must be."""
    ran = run(started(), taking(1.1), 20)

    assert ran.count(HALVES) == 2


def test_a_plan_that_is_faster_about_as_often_as_not_does_not_come_into_force():
    """What is in force stays for a tie."""
    comparison = started()
    times_s = iter([0.9, 1.1] * 20)

    run(comparison, lambda plan: USUAL_S if plan == WHOLE else next(times_s), 40)

    assert comparison.in_force == WHOLE


def test_one_pause_does_not_decide():
    """A candidate that is faster but for one long pause comes into force, only later."""
    comparison = started()
    times_s = iter([0.9, 5.0] + [0.9] * 20)

    run(comparison, lambda plan: USUAL_S if plan == WHOLE else next(times_s), 20)

    assert comparison.in_force == HALVES


def test_splitting_must_gain_more_than_a_little():
    """A split that is 2 % faster than whole batches is not worth it, one that is 4 % faster is."""
    little, enough = started(), started()

    run(little, taking(0.98), 20)
    run(enough, taking(0.96), 20)

    assert (little.in_force, enough.in_force) == (WHOLE, HALVES)


def test_the_whole_batch_comes_back_if_it_is_about_as_fast():
    """A split in force that gains no more than 2 % gives way to the whole batch."""
    comparison = started()
    run(comparison, taking(0.9), 8)
    comparison.start(WHOLE)

    run(comparison, taking(0.98), 20)

    assert comparison.in_force == WHOLE


def test_both_plans_take_turns():
    """What drifts meanwhile meets both alike."""
    ran = run(started(), taking(0.9), 6)

    assert ran == [WHOLE, HALVES] * 3


@pytest.mark.parametrize("more", [1, 2, 5])
def test_a_plan_that_ran_out_of_turn_is_judged_by_as_many_batches(more):
    """Batches of several callers at once do not make a comparison last for ever."""
    comparison = started()
    for _ in range(more):
        comparison.add(WHOLE, USUAL_S)
    for _ in range(8):
        comparison.add(HALVES, 0.9)
        comparison.add(WHOLE, USUAL_S)

    assert comparison.in_force == HALVES


def test_a_plan_that_has_lost_waits_longer_each_time():
    """It is not tried again soon, nor is the plan that was in force before."""
    comparison = started()
    waits = []
    for _ in range(3):
        run(comparison, taking(1.1), 6)
        waits.append(0)
        while not comparison.may_run(HALVES):
            run(comparison, taking(1.1), 1)
            waits[-1] += 1
        comparison.start(HALVES)

    assert 30 < waits[0] < waits[1] < waits[2]
    won = started()
    run(won, taking(0.9), 8)
    assert not won.may_run(WHOLE)
    assert not won.may_run(HALVES)  # it is in force


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_plans_that_have_lost_may_run_again_when_batches_take_another_time(factor):
    """A machine or requests that have changed make another plan the best."""
    comparison = started()
    run(comparison, taking(1.1), 12)
    assert not comparison.may_run(HALVES)

    run(comparison, lambda _: factor * USUAL_S, 9)

    assert comparison.may_run(HALVES)
    assert comparison.is_open


def test_a_candidate_whose_batches_never_finish_is_dropped():
    """A plan that makes batches fail tells no times; it does not stay for ever."""
    comparison = started()
    for _ in range(60):
        plan = comparison.turn()
        if plan == WHOLE:
            comparison.add(plan, USUAL_S)

    assert comparison.turn() == WHOLE
    assert not comparison.may_run(HALVES)


def test_no_candidate_is_started_before_the_plan_in_force_is_known():
    """Three batches tell what it takes."""
    comparison = Comparison(32, WHOLE)
    run(comparison, lambda _: USUAL_S, 2)
    assert not comparison.is_open
    assert comparison.seconds(WHOLE) is None

    run(comparison, lambda _: USUAL_S, 1)

    assert comparison.is_open
    assert comparison.seconds(WHOLE) == USUAL_S


def test_without_a_candidate_none_is_looked_for_for_a_while():
    """Looking for one costs time, too."""
    comparison = Comparison(32, WHOLE)
    run(comparison, lambda _: USUAL_S, 3)
    comparison.start(None)

    assert comparison.turn() == WHOLE
    assert not comparison.is_open
    run(comparison, lambda _: USUAL_S, 10)
    assert comparison.is_open


@pytest.mark.parametrize(("seconds", "lost_s"), [(1.25, 0.5), (0.75, 0.0)])
def test_what_a_candidate_has_lost_is_told_when_it_is_decided(seconds, lost_s):
    """Its seconds above those of the plan in force, and nothing if it was faster."""
    comparison = started()

    told = [comparison.add(plan, taking(seconds)(plan)) for plan in [WHOLE, HALVES] * 4]

    assert sum(told) == lost_s
