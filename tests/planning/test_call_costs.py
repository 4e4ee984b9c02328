"""What a call costs, learned from calls."""

from __future__ import annotations

import random
import threading

import pytest

from micro_batch_handler.planning.call_costs import CallCosts
from micro_batch_handler.planning.cost_curve import Curve, Line, curve, fit


def learned(calls) -> Curve:
    costs = CallCosts()
    for rows, seconds in calls:
        costs.observe(rows, seconds)
    found = curve(costs.points(), [])
    assert found is not None
    return found


def calls_of(fixed_s, row_s, sizes, noise=0.0, seed=1):
    chance = random.Random(seed)
    return [(k, (fixed_s + row_s * k) * max(0.2, chance.gauss(1, noise))) for k in sizes]


SIZES = [1, 2, 3, 4, 6, 8, 11, 16, 20, 32] * 12


@pytest.mark.parametrize(("fixed_s", "row_s"), [(0.005, 0.0004), (0.0, 0.001), (0.02, 0.0)])
def test_calls_of_several_sizes_give_both_parts(fixed_s, row_s):
    """What a call costs at all and what a row adds are found, each of which may be nothing."""
    found = learned(calls_of(fixed_s, row_s, SIZES)).line

    assert found.slope_known
    assert pytest.approx(fixed_s, abs=1e-9) == found.fixed_s
    assert pytest.approx(row_s, abs=1e-9) == found.row_s


@pytest.mark.parametrize("seed", range(5))
def test_noise_of_a_tenth_moves_costs_little(seed):
    """With calls that vary by 10 %, the line is right to 8 % and each size's own cost to 15 %."""
    found = learned(calls_of(0.005, 0.0004, SIZES, noise=0.1, seed=seed))

    for rows in (4, 8, 16, 32, 24):
        assert pytest.approx(0.005 + 0.0004 * rows, rel=0.08) == found.line.at(rows)
        assert pytest.approx(0.005 + 0.0004 * rows, rel=0.15) == found(rows)


@pytest.mark.parametrize("seed", range(5))
def test_pauses_and_a_slow_first_call_count_for_nothing(seed):
    """One call in twenty takes twenty times as long, and the first two hundred times."""
    calls = calls_of(0.005, 0.0004, SIZES, noise=0.05, seed=seed)
    chance = random.Random(seed)
    paused = [(k, s * 20 if chance.random() < 0.05 else s) for k, s in calls]
    found = learned([(32, 4.0), *paused])

    for rows in (4, 16, 32):
        assert pytest.approx(0.005 + 0.0004 * rows, rel=0.08) == found(rows)


def test_one_call_of_a_size_does_not_outweigh_many():
    """A size that was seen once, in a pause, does not tilt the line."""
    found = learned([*calls_of(0.001, 0.001, [8, 16] * 10), (32, 5.0)]).line

    assert pytest.approx(0.001 + 0.001 * 16, rel=0.01) == found.at(16)


def test_one_call_of_another_size_does_not_tell_what_a_row_adds():
    """It may have been a pause; until it is seen again, only the one size is known."""
    assert not learned([*[(16, 0.01)] * 10, (32, 5.0)]).line.slope_known
    assert learned([*[(16, 0.01)] * 10, *[(32, 0.02)] * 2]).line.slope_known


def test_calls_of_one_size_tell_the_cost_there_and_say_that_they_tell_no_more():
    """With all calls alike the line is level, which is the worst for smaller calls, and says so."""
    found = learned([(16, 0.01)] * 20)

    assert Line(0.01, 0.0, slope_known=False) == found.line
    assert pytest.approx(0.01) == found(16)
    assert "10 ms" == str(found.line)


def test_sizes_that_are_nearly_the_same_do_not_tell_a_slope():
    """Between 31 and 32 rows noise is larger than what a row adds."""
    assert not learned([(31, 0.010), (32, 0.009)] * 10).line.slope_known


@pytest.mark.parametrize("falling", [[(4, 0.02), (16, 0.01)], [(4, 0.001), (16, 0.02)]])
def test_no_part_is_ever_negative(falling):
    """Calls that become cheaper with rows, or that would cost less than nothing, give 0."""
    found = learned(falling * 10).line

    assert found.fixed_s >= 0
    assert found.row_s >= 0


def test_costs_follow_a_machine_that_becomes_slower_for_sizes_not_seen_again_too():
    """After calls of 8 have doubled, those of 32 are expected to have doubled with them."""
    costs = CallCosts()
    costs.extend(calls_of(0.005, 0.0004, SIZES))
    costs.points()
    for _ in range(30):
        costs.extend([(8, 2 * (0.005 + 0.0004 * 8))] * 4)
        points = costs.points()

    found = fit(points)
    assert pytest.approx(2 * (0.005 + 0.0004 * 32), rel=0.05) == found.at(32)
    assert pytest.approx(2 * (0.005 + 0.0004 * 8), rel=0.05) == found.at(8)


def test_a_size_that_does_not_come_any_more_is_forgotten_slowly():
    """After a hundred rounds it still counts; after some hundreds it may be explored again."""
    costs = CallCosts()
    costs.extend([(32, 0.02)] * 4)
    for _ in range(100):
        costs.observe(8, 0.01)
        costs.points()
    assert fit(costs.points()).slope_known

    for _ in range(300):
        costs.observe(8, 0.01)
        costs.points()
    assert not fit(costs.points()).slope_known


def test_calls_elsewhere_lend_their_slope_but_not_their_level():
    """Calls of one size, twice as slow as they are alone, give twice the line of those alone."""
    alone = CallCosts()
    alone.extend(calls_of(0.004, 0.001, [8, 16, 32] * 5))
    among = CallCosts()
    among.extend([(8, 2 * 0.012)] * 5)

    found = curve(among.points(), alone.points())

    assert pytest.approx(2 * (0.004 + 0.001 * 32)) == found(32)


def test_nothing_is_known_without_calls():
    """Neither a line nor a curve comes out of nothing; what cannot be a call is passed over."""
    costs = CallCosts()
    costs.extend([(0, 0.1), (4, 0.0), (4, -1.0), (4, float("nan")), (4, float("inf"))])

    assert [] == costs.points()
    assert fit([]) is None
    assert curve([], []) is None


def test_a_size_that_is_off_the_line_is_believed_after_some_calls():
    """Where steps in cost are real, what was measured at a size counts beside the line."""
    steps = {4: 0.01, 8: 0.01, 16: 0.01, 17: 0.02, 32: 0.02}
    found = learned([(rows, seconds) for rows, seconds in steps.items() for _ in range(15)])

    assert all(pytest.approx(seconds, rel=0.1) == found(rows) for rows, seconds in steps.items())


def test_lanes_observe_while_costs_are_learned():
    """No call is lost, and nothing breaks, while other threads add calls."""
    costs = CallCosts()
    start = threading.Barrier(4)

    def lane(rows):
        start.wait()
        for _ in range(500):
            costs.observe(rows, 0.001 * rows)

    lanes = [threading.Thread(target=lane, args=(rows,)) for rows in (2, 4, 8)]
    for thread in lanes:
        thread.start()
    start.wait()
    for _ in range(20):
        costs.points()
    for thread in lanes:
        thread.join()

    assert [2, 4, 8] == [point.rows for point in costs.points()]
    assert pytest.approx(0.001) == fit(costs.points()).row_s
