"""Sizes that are tried against those in force, in turns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from micro_batch_handler.planning.contest import (
    FIRST_WAIT_BATCHES,
    STALE_BATCHES,
    Contest,
    neighbours,
)

OLD, NEW = (8, 8, 8), (4, 8, 8)


def known(seconds: float = 1.0) -> Contest:
    """A contest whose champion has run three batches."""
    contest = Contest(OLD)
    for batch in range(3):
        contest.ended(batch, OLD, seconds)
    return contest


def fight(contest: Contest, seconds: Callable[[int], float], batch: int = 3) -> int:
    """Let the new sizes challenge; how many batches they ran until it was decided.

    Args:
        contest: whose champion takes a second.
        seconds: of the new sizes' batches, by number.
        batch: the first.
    """
    contest.challenge(NEW, batch)
    turns = 0
    while not contest.is_open(batch + 100) and turns < 20:
        sizes = contest.turn()
        batch += 1
        contest.ended(batch, sizes, seconds(turns) if sizes == NEW else 1.0)
        turns += sizes == NEW
        if contest._challenger is None:
            break
    return turns


def test_who_is_faster_each_time_wins_after_three_turns():
    """A clear gain is taken soon, and what it takes is known from the turns."""
    contest = known()

    assert fight(contest, lambda _: 0.9) == 3
    assert contest.champion == NEW
    assert contest.champion_s(10) == 0.9


def test_who_is_slower_each_time_has_lost_after_two_turns():
    """A clear loss costs no more batches than must be."""
    contest = known()

    assert fight(contest, lambda _: 1.1) == 2
    assert contest.champion == OLD


def test_who_is_faster_about_as_often_as_not_does_not_win():
    """What is in force stays for a tie."""
    contest = known()

    fight(contest, lambda turn: 0.9 if turn % 2 else 1.1)

    assert contest.champion == OLD


def test_one_pause_does_not_decide():
    """A challenger that is faster but for one long pause wins, only later."""
    contest = known()

    assert fight(contest, lambda turn: 5.0 if turn == 1 else 0.9) == 6
    assert contest.champion == NEW


def test_champion_and_challenger_take_turns():
    """What drifts meanwhile meets both alike; a batch that is neither's changes nothing."""
    contest = known()
    contest.challenge(NEW, 3)
    seen = []
    for batch in range(4, 9):
        seen.append(contest.turn())
        contest.ended(batch, seen[-1], 1.0 if seen[-1] == OLD else 0.9)
        contest.ended(batch, (32, 32, 32), 9.0)

    assert seen == [OLD, NEW, OLD, NEW, OLD]


@pytest.mark.parametrize("more", [1, 2, 5])
def test_a_champion_that_ran_more_often_is_judged_by_as_many_turns(more):
    """Batches that ran out of turn do not make a contest last for ever."""
    contest = known()
    contest.challenge(NEW, 3)
    for _ in range(more):
        contest.ended(4, OLD, 1.0)
    for _ in range(3):
        contest.ended(5, NEW, 0.9)
        contest.ended(5, OLD, 1.0)

    assert contest.champion == NEW


def test_more_batches_of_the_champion_do_not_count_for_the_challenger():
    """A tie stays one, however many batches ran out of turn."""
    contest = known()
    contest.challenge(NEW, 3)
    for _ in range(9):
        contest.ended(4, OLD, 1.0)
    for turn in range(6):
        contest.ended(5, NEW, 1.1 if turn % 2 else 0.9)

    assert contest.champion == OLD
    assert contest.turn() == OLD


def test_a_loser_waits_twice_as_long_each_time():
    """Who has lost is not tried again soon, the old champion neither."""
    contest = known()
    fight(contest, lambda _: 1.1)
    first = next(batch for batch in range(10_000) if contest.may_challenge(NEW, batch))
    fight(contest, lambda _: 1.1, batch=first)
    second = next(batch for batch in range(10_000) if contest.may_challenge(NEW, batch))

    assert FIRST_WAIT_BATCHES <= first <= FIRST_WAIT_BATCHES + 10
    assert first + 2 * FIRST_WAIT_BATCHES <= second <= first + 2 * FIRST_WAIT_BATCHES + 10
    assert not contest.may_challenge(OLD, 100_000)  # it is the champion

    won = known()
    fight(won, lambda _: 0.9)
    assert not won.may_challenge(OLD, 20)
    assert won.may_challenge(OLD, 20 + FIRST_WAIT_BATCHES)


def test_what_a_champion_took_long_ago_is_not_known():
    """While batches run unsplit for long, the machine may have become another."""
    contest = known()

    assert contest.champion_s(2 + STALE_BATCHES - 1) == 1.0
    assert contest.champion_s(2 + STALE_BATCHES) is None
    assert Contest(OLD).champion_s(0) is None
    assert not Contest(OLD).is_open(0)


def test_if_nobody_can_challenge_nobody_is_asked_for_a_while():
    """Looking for a challenger costs time, too."""
    contest = known()
    assert contest.is_open(3)

    contest.challenge(None, 3)

    assert contest.turn() == OLD
    assert not contest.is_open(4)
    assert contest.is_open(11)


def test_neighbours_are_doubled_and_halved_where_there_are_such_sizes():
    """In each group of stages; at the ends of the options nothing is left to change."""
    options = [(8, 4, 2, 1), (8, 4, 2), (8,)]

    found = neighbours((4, 2, 8), options, [(0,), (1,), (2,), (0, 1)])

    assert found == [(2, 2, 8), (8, 2, 8), (4, 4, 8), (8, 4, 8)]
