"""The schedule of a batch, and the search for the sizes that finish it first."""

from __future__ import annotations

import random
from itertools import product

import pytest

from harness.simulated import HAND_OVER_S, Machine, linear
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.search import best, neighbours
from micro_batch_handler.planning.sizes import SizeOptions, even_sizes


def forecast(machine: Machine, rows: int) -> Forecast:
    lanes = [machine.lanes[stage] for stage in STAGES]
    return Forecast(rows, machine.costs, lanes, HAND_OVER_S)


def drawn(chance: random.Random) -> Machine:
    """A machine with any stage the bottleneck; calls cost by the call, by the row, or both."""
    costs = [
        linear(
            chance.choice([0.0, chance.uniform(0, 0.02)]),
            chance.choice([0.0, chance.uniform(0, 0.003)]),
        )
        for _ in STAGES
    ]
    return Machine(costs, PerStage(*(chance.choice([1, 1, 2, 3, 4]) for _ in STAGES)))


def test_a_forecast_is_what_the_stages_then_do():
    """For random costs, lanes and sizes it is exact but for full inboxes, which are seldom."""
    chance = random.Random(1)
    exact = []
    for _ in range(400):
        machine, rows = drawn(chance), chance.choice([1, 2, 7, 16, 33, 64])
        sizes = tuple(chance.randint(1, rows) for _ in STAGES)
        predicted_s = forecast(machine, rows).finish_s(sizes)
        plan = Plan(*sizes)
        if plan.fits(rows):
            continue
        taken_s = machine.run_s(rows, plan)
        assert 0.7 * taken_s < predicted_s < taken_s * (1 + 1e-9)
        exact.append(predicted_s > taken_s * (1 - 1e-9))

    assert sum(exact) > 0.95 * len(exact) > 200


@pytest.mark.parametrize("seed", range(6))
def test_the_search_finds_what_trying_everything_finds(seed, config_of):
    """Within 5 % of the best of all sizes, for batches of 1 to 33 rows."""
    chance = random.Random(seed)
    choices = SizeOptions(config_of())
    for _ in range(15):
        machine, rows = drawn(chance), chance.choice([1, 2, 3, 5, 8, 12, 16, 20, 32, 33])
        known = forecast(machine, rows)
        found_s = known.finish_s(best(known, choices))
        least_s = min(map(known.finish_s, product(even_sizes(rows), repeat=3)))
        assert found_s <= 1.05 * least_s


def test_the_search_holds_for_batches_of_a_hundred(config_of):
    """The same for two large batches, where trying everything takes long."""
    chance = random.Random(7)
    for rows in (100, 128):
        known = forecast(drawn(chance), rows)
        least_s = min(map(known.finish_s, product(even_sizes(rows), repeat=3)))
        assert known.finish_s(best(known, SizeOptions(config_of()))) <= 1.05 * least_s


def test_of_equally_fast_plans_the_one_with_fewest_calls_is_taken(config_of):
    """Where postprocess costs next to nothing it is not cut into many calls for nothing."""
    machine = Machine([linear(0, 0.001), linear(0.02, 0), linear(1e-6, 0)])

    assert (32, 32, 32) == best(forecast(machine, 32), SizeOptions(config_of()))


def test_sizes_of_the_user_are_kept(config_of):
    """They are neither searched nor capped by the batch; the others are chosen around them."""
    machine = Machine([linear(0, 0.001)] * 3)
    choices = SizeOptions(config_of(micro_batch_size={"inference": 64, "postprocess": 3}))

    sizes = best(forecast(machine, 32), choices)

    assert (64, 3) == sizes[1:]
    assert (32, 64, 3) == choices.whole(32)


def test_stages_stay_alike_until_payloads_are_known_to_be_cuttable(config_of):
    """Together, all sizes are the same, and those that the user has given are taken for all."""
    machine = Machine([linear(0.0001, 0.001), linear(0.005, 0.0001), linear(0.001, 0.001)])
    assert len(set(best(forecast(machine, 32), SizeOptions(config_of(), together=True)))) == 1

    given = SizeOptions(config_of(micro_batch_size={"inference": 8}), together=True)
    assert (8, 8, 8) == best(forecast(machine, 32), given)
    assert given.free == ()


@pytest.mark.parametrize("together", [True, False])
def test_inference_is_called_with_allowed_sizes_only(config_of, together):
    """Every plan's inference size is an allowed one; a small batch is padded up, not cut."""
    chance = random.Random(3)
    choices = SizeOptions(config_of(allowed_sizes=[2, 8, 24]), together=together)
    for rows in range(1, 41):
        machine = drawn(chance)
        assert best(forecast(machine, rows), choices)[1] in {2, 8, 24}
    assert (1, 2, 1) == choices.whole(1)
    assert (9, 24, 9) == choices.whole(9)
    assert [1, 2, 9, 24, 25] == [min(each, choices.padded(each)) for each in (1, 2, 9, 24, 25)]
    assert [2, 2, 24, 24] == [choices.padded(each) for each in (1, 2, 9, 24)]


def test_rows_that_fill_allowed_sizes_are_not_padded(config_of):
    """Where a row costs, 24 rows go in three calls of 8 rather than in one padded to 32."""
    choices = SizeOptions(config_of(allowed_sizes=[8, 32]))
    costs = [linear(0, 1e-5), lambda k: 0.001 * choices.padded(k), linear(0, 1e-5)]

    assert best(forecast(Machine(costs), 24), choices)[1] == 8


def test_sizes_far_below_those_seen_are_not_chosen(config_of):
    """However good they look: the least for each stage is kept, unless the batch is smaller."""
    machine = Machine([linear(0, 0.001)] * 3)

    sizes = best(forecast(machine, 32), SizeOptions(config_of()), least=(8, 4, 16))
    together = best(forecast(machine, 32), SizeOptions(config_of(), together=True), least=(8, 4, 2))

    assert all(size >= limit for size, limit in zip(sizes, (8, 4, 16), strict=True))
    assert (8, 8, 8) == together
    assert (3, 3, 3) == best(forecast(machine, 3), SizeOptions(config_of()), least=(8, 4, 16))


def test_a_plan_is_adapted_to_other_numbers_of_rows(config_of):
    """Micro-batches become no larger, all of about one size; given and allowed sizes are kept."""
    free = SizeOptions(config_of())
    assert (7, 10, 20) == free.adapted(Plan(8, 16, 32), 20)
    assert (8, 8, 8) == free.adapted(Plan(8, 16, 32), 8)
    assert (8, 16, 32) == free.adapted(Plan(8, 16, 32), 32)
    allowed = SizeOptions(config_of(allowed_sizes=[8, 32]))
    assert (10, 8, 20) == allowed.adapted(Plan(16, 16, 32), 20)
    assert (10, 32, 20) == allowed.adapted(Plan(16, 32, 32), 20)
    together = SizeOptions(config_of(allowed_sizes=[8, 32]), together=True)
    assert (8, 8, 8) == together.adapted(Plan.of(8), 20)
    given = SizeOptions(config_of(micro_batch_size={"inference": 4}))
    assert (10, 4, 10) == given.adapted(Plan(16, 4, 16), 20)
    assert (4, 4, 4) == SizeOptions(config_of(micro_batch_size=4)).adapted(Plan.of(4), 20)


def test_neighbours_double_or_halve_sizes_where_there_are_such(config_of):
    """In each group of stages; at the ends of the options nothing is left to change."""
    found = neighbours(Plan(4, 1, 8), SizeOptions(config_of()), 8)

    assert {(2, 1, 8), (8, 1, 8), (4, 2, 8), (4, 1, 4), (2, 1, 4), (8, 2, 8)} == set(found)
    assert len(found) == len(set(found))
    assert all(1 <= size <= 8 for plan in found for size in plan)
    given = SizeOptions(config_of(micro_batch_size={"inference": 4}))
    assert {plan.inference for plan in neighbours(Plan(8, 4, 8), given, 8)} == {4}


def test_very_large_batches_are_not_cut_into_very_small_pieces():
    """A stage of a batch of thousands is never cut into more than 64."""
    assert -(-5000 // even_sizes(5000)[-1]) <= 64
    assert (3, 2, 1) == even_sizes(3)
