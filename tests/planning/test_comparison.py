"""Sizes that are tried against those in force, in turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro_batch_handler.planning.comparison import (
    FIRST_WAIT_BATCHES,
    STALE_BATCHES,
    Comparison,
    neighbours,
)
from micro_batch_handler.planning.plan import Plan

OLD, NEW = Plan.of(8), Plan(4, 8, 8)


def known(seconds: float = 1.0) -> Comparison:
    """A comparison whose incumbent has run three batches."""
    comparison = Comparison(OLD)
    for batch in range(3):
        comparison.ended(batch, OLD, seconds)
    return comparison


def fight(comparison: Comparison, seconds: Callable[[int], float], batch: int = 3) -> int:
    """Let the new sizes challenge; how many batches they ran until it was decided.

    Args:
        comparison: whose incumbent takes a second.
        seconds: of the new sizes' batches, by number.
        batch: the first.
    """
    comparison.start(NEW, batch)
    turns = 0
    while not comparison.is_open(batch + 100) and turns < 20:
        sizes = comparison.turn()
        batch += 1
        comparison.ended(batch, sizes, seconds(turns) if sizes == NEW else 1.0)
        turns += sizes == NEW
        if comparison._candidate is None:
            break
    return turns


def test_who_is_faster_each_time_wins_after_three_turns():
    """A clear gain is taken soon, and what it takes is known from the turns."""
    comparison = known()

    assert fight(comparison, lambda _: 0.9) == 3
    assert comparison.incumbent == NEW
    assert comparison.incumbent_s(10) == 0.9


def test_who_is_slower_each_time_has_lost_after_two_turns():
    """A clear loss costs no more batches than must be."""
    comparison = known()

    assert fight(comparison, lambda _: 1.1) == 2
    assert comparison.incumbent == OLD


def test_who_is_faster_about_as_often_as_not_does_not_win():
    """What is in force stays for a tie."""
    comparison = known()

    fight(comparison, lambda turn: 0.9 if turn % 2 else 1.1)

    assert comparison.incumbent == OLD


def test_one_pause_does_not_decide():
    """A candidate that is faster but for one long pause wins, only later."""
    comparison = known()

    assert fight(comparison, lambda turn: 5.0 if turn == 1 else 0.9) == 6
    assert comparison.incumbent == NEW


def test_champion_and_challenger_take_turns():
    """What drifts meanwhile meets both alike; a batch that is neither's changes nothing."""
    comparison = known()
    comparison.start(NEW, 3)
    seen = []
    for batch in range(4, 9):
        seen.append(comparison.turn())
        comparison.ended(batch, seen[-1], 1.0 if seen[-1] == OLD else 0.9)
        comparison.ended(batch, (32, 32, 32), 9.0)

    assert seen == [OLD, NEW, OLD, NEW, OLD]


@pytest.mark.parametrize("more", [1, 2, 5])
def test_a_champion_that_ran_more_often_is_judged_by_as_many_turns(more):
    """Batches that ran out of turn do not make a comparison last for ever."""
    comparison = known()
    comparison.start(NEW, 3)
    for _ in range(more):
        comparison.ended(4, OLD, 1.0)
    for _ in range(3):
        comparison.ended(5, NEW, 0.9)
        comparison.ended(5, OLD, 1.0)

    assert comparison.incumbent == NEW


def test_more_batches_of_the_champion_do_not_count_for_the_candidate():
    """A tie stays one, however many batches ran out of turn."""
    comparison = known()
    comparison.start(NEW, 3)
    for _ in range(9):
        comparison.ended(4, OLD, 1.0)
    for turn in range(6):
        comparison.ended(5, NEW, 1.1 if turn % 2 else 0.9)

    assert comparison.incumbent == OLD
    assert comparison.turn() == OLD


def test_a_loser_waits_twice_as_long_each_time():
    """Who has lost is not tried again soon, the old incumbent neither."""
    comparison = known()
    fight(comparison, lambda _: 1.1)
    first = next(batch for batch in range(10_000) if comparison.may_run(NEW, batch))
    fight(comparison, lambda _: 1.1, batch=first)
    second = next(batch for batch in range(10_000) if comparison.may_run(NEW, batch))

    assert FIRST_WAIT_BATCHES <= first <= FIRST_WAIT_BATCHES + 10
    assert first + 2 * FIRST_WAIT_BATCHES <= second <= first + 2 * FIRST_WAIT_BATCHES + 10
    assert not comparison.may_run(OLD, 100_000)  # it is the incumbent

    won = known()
    fight(won, lambda _: 0.9)
    assert not won.may_run(OLD, 20)
    assert won.may_run(OLD, 20 + FIRST_WAIT_BATCHES)


def test_what_a_champion_took_long_ago_is_not_known():
    """While batches run unsplit for long, the machine may have become another."""
    comparison = known()

    assert comparison.incumbent_s(2 + STALE_BATCHES - 1) == 1.0
    assert comparison.incumbent_s(2 + STALE_BATCHES) is None
    assert Comparison(OLD).incumbent_s(0) is None
    assert not Comparison(OLD).is_open(0)


def test_if_nobody_can_challenge_nobody_is_asked_for_a_while():
    """Looking for a candidate costs time, too."""
    comparison = known()
    assert comparison.is_open(3)

    comparison.start(None, 3)

    assert comparison.turn() == OLD
    assert not comparison.is_open(4)
    assert comparison.is_open(11)


def test_neighbours_are_doubled_and_halved_where_there_are_such_sizes():
    """In each group of stages; at the ends of the options nothing is left to change."""
    options = [(8, 4, 2, 1), (8, 4, 2), (8,)]

    found = neighbours(Plan(4, 2, 8), options, [(0,), (1,), (2,), (0, 1)])

    assert found == [(2, 2, 8), (8, 2, 8), (4, 4, 8), (8, 4, 8)]
