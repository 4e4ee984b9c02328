"""Plans that follow from what batches took, in simulated time."""

from __future__ import annotations

import logging
import random
import re
import threading
from collections import Counter
from itertools import count, product

import pytest

from harness.simulated import HAND_OVER_S, Machine, linear
from micro_batch_handler.config import STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner

BALANCED = [linear(0.0002, 0.001), linear(0.005, 0.0004), linear(0.0001, 0.0005)]


def planner_for(machine, batch_size=32, regroups=True, now_s=None, **section) -> Planner:
    """A planner whose clock says that each look for better plans takes a millisecond."""
    looks = count()
    return Planner(
        MicroBatchingConfig.from_section(section),
        batch_size,
        machine.lanes,
        hand_over_s=HAND_OVER_S,
        regroups=regroups,
        now_s=now_s or (lambda: next(looks) / 1000),
    )


def serve(machine, planner, sizes, batches) -> tuple[float, float]:
    """Seconds of all batches, and what they would have taken whole."""
    order = random.Random(2)
    alone = Machine(machine.costs, machine.lanes, noise=machine.noise, pauses=machine.pauses)
    taken_s = whole_s = 0.0
    for _ in range(batches):
        rows = order.choice(sizes)
        taken_s += machine.batch_s(planner, rows)
        whole_s += alone.run_s(rows, Plan.of(rows))
    return taken_s, whole_s


def plans_of(machine, planner, sizes) -> list[Plan]:
    """How batches of these sizes are cut, one after the other."""
    found = []
    for rows in sizes:
        found.append(planner.plan(rows))
        machine.batch_s(planner, rows)
    return found


def in_force(machine, planner, rows=32) -> Plan:
    """The plan that most of the next batches have."""
    return Counter(plans_of(machine, planner, [rows] * 25)).most_common(1)[0][0]


def test_the_first_batches_run_whole():
    """Before anything is known a batch is not cut, so that nothing can become slower."""
    planner = planner_for(Machine(BALANCED))

    assert Plan.of(32) == planner.plan(32)
    assert Plan.of(5) == planner.plan(5)
    assert planner.plan(0).fits(0)


@pytest.mark.parametrize("lanes", [PerStage(1, 1, 1), PerStage(4, 1, 4)])
@pytest.mark.parametrize("whole_us", [5, 30, 100])
@pytest.mark.parametrize("fixed", [0.0, 0.5, 1.0])
def test_calls_of_microseconds_are_never_cut(whole_us, fixed, lanes):
    """No trial is made where handing over takes longer than overlap could save, whatever is fixed.

    How a call's time depends on its rows is not known before the first cut, and need not be.
    """
    cost = linear(fixed * whole_us * 1e-6, (1 - fixed) * whole_us * 1e-6 / 32)
    machine = Machine([cost] * 3, lanes, noise=0.1)
    order = random.Random(1)
    sizes = [order.randint(1, 32) for _ in range(500)]

    for rows in ([32] * 500, sizes):
        plans = plans_of(machine, planner_for(machine), rows)
        assert all(plan.fits(count) for count, plan in zip(rows, plans, strict=True))


def test_calls_that_become_longer_are_cut_after_all():
    """What was too short to be cut is tried once it takes milliseconds."""
    machine = Machine([linear(0.0, 1e-6)] * 3, noise=0.02)
    planner = planner_for(machine)
    assert all(plan.fits(32) for plan in plans_of(machine, planner, [32] * 50))

    machine.costs = BALANCED

    assert not all(plan.fits(32) for plan in plans_of(machine, planner, [32] * 300)[200:])


@pytest.mark.parametrize("sizes", [[32], list(range(1, 33))])
def test_stages_that_can_overlap_come_to_overlap(sizes):
    """After some noisy batches, even all of one size, time is two thirds of whole."""
    machine = Machine(BALANCED, PerStage(2, 1, 1), noise=0.05, pauses=0.01)
    planner = planner_for(machine)
    serve(machine, planner, sizes, 60)

    taken_s, whole_s = serve(machine, planner, sizes, 100)

    assert taken_s < 0.78 * whole_s


def test_plans_are_nearly_the_best_there_are():
    """With any costs a learned plan is at least as fast as the best of equal sizes."""
    chance = random.Random(4)
    for _ in range(8):
        costs = [linear(chance.uniform(0, 0.01), chance.uniform(0.0001, 0.002)) for _ in STAGES]
        machine = Machine(costs, PerStage(chance.randint(1, 3), 1, chance.randint(1, 2)))
        planner = planner_for(machine)
        serve(machine, planner, [32], 80)
        equal = [machine.run_s(32, Plan.of(size)) for size in (2, 4, 6, 8, 11, 16, 32)]

        assert machine.run_s(32, in_force(machine, planner)) <= 1.02 * min(equal)


@pytest.mark.parametrize("row_s", [0.001, 0.0016, 0.0025, 0.004])
@pytest.mark.parametrize("launch_s", [0.001, 0.005])
def test_sizes_prove_best_where_calls_get_in_each_others_way(row_s, launch_s):
    """Two lanes that decode on two cores beside a device: 4 % behind the best of all sizes at most.

    By what calls cost alone it would be up to a quarter: they cost less the more they wait.
    """
    costs = [linear(0.0001, row_s), linear(launch_s, 0.0003), linear(0.0001, 0.00002)]
    lanes = PerStage(2, 1, 1)
    machine = Machine(costs, lanes, cores=2, waiting=(1,), noise=0.05, unrest=0.05)
    planner = planner_for(machine, batch_size=64)
    serve(machine, planner, [64], 300)
    alone = Machine(costs, lanes, cores=2, waiting=(1,))
    sizes = (1, 2, 4, 8, 16, 32)
    best_s = min(alone.run_s(64, Plan(*each)) for each in product(sizes, repeat=3))

    assert alone.run_s(64, in_force(machine, planner, 64)) <= 1.04 * best_s


@pytest.mark.parametrize(
    "before",
    [
        [linear(0.03, 0)] * 3,
        [linear(0, 0.001), linear(0.03, 0), linear(0, 0.001)],
        [linear(0, 0.002)] * 3,
    ],
)
def test_plans_follow_when_requests_change(before):
    """Whatever was best before, whole batches or tiny calls, does not stay in the way."""
    machine = Machine(before, PerStage(2, 1, 1), noise=0.02)
    planner = planner_for(machine)
    serve(machine, planner, [32], 100)
    machine.costs = BALANCED
    serve(machine, planner, [32], 200)

    taken_s, whole_s = serve(machine, planner, [32], 100)

    assert taken_s < 0.75 * whole_s


def test_what_has_proved_best_is_kept_when_calls_seem_to_cost_more():
    """Costs that jump propose other plans, which are tried before they are in force."""
    machine = Machine(BALANCED, PerStage(2, 1, 1), noise=0.02)
    planner = planner_for(machine)
    serve(machine, planner, [32], 200)
    before = in_force(machine, planner)
    for _ in range(20):
        planner.plan(32)
        for stage in STAGES:
            planner.observe(stage, 4, 0.1)
        planner.finished(32, before, machine.run_s(32, before))

    assert machine.run_s(32, in_force(machine, planner)) < 1.05 * machine.run_s(32, before)


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("only fixed costs", Machine([linear(0.01, 0)] * 3, noise=0.05)),
        ("one stage is all", Machine([linear(0, 1e-6), linear(0.03, 0.001), linear(0, 1e-6)])),
        ("tiny", Machine([linear(1e-4, 1e-5)] * 3, noise=0.05)),
        ("a lock around every call", Machine(BALANCED, PerStage(2, 1, 1), cores=1, noise=0.03)),
        ("two cores for six lanes", Machine(BALANCED, PerStage(4, 1, 1), cores=2, noise=0.05)),
    ],
)
@pytest.mark.parametrize("sizes", [[32], list(range(1, 33))])
def test_it_is_never_more_than_3_percent_slower_than_not_splitting(name, machine, sizes):
    """Trials included: where splitting does not pay, or only seems to, batches stay whole."""
    planner = planner_for(machine)
    warming_s, plain_s = serve(machine, planner, sizes, 60)

    taken_s, whole_s = serve(machine, planner, sizes, 400)

    assert taken_s <= 1.03 * whole_s, name
    assert warming_s <= 1.2 * plain_s, name


def test_a_lock_that_calls_begin_to_share_is_found_out():
    """Stages that overlapped and do not any more run whole again, and the other way round."""
    machine = Machine(BALANCED, PerStage(2, 1, 1), noise=0.02)
    planner = planner_for(machine)
    serve(machine, planner, [32], 100)
    assert not in_force(machine, planner).fits(32)

    machine.cores = 1
    serve(machine, planner, [32], 60)
    taken_s, whole_s = serve(machine, planner, [32], 300)
    assert taken_s <= 1.03 * whole_s

    machine.cores = None
    serve(machine, planner, [32], 1500)
    taken_s, whole_s = serve(machine, planner, [32], 100)
    assert taken_s < 0.75 * whole_s


def test_trials_cost_little():
    """In a good plan's way stands a whole batch only now and then: 2 % of time, ever less."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine)
    serve(machine, planner, [32], 100)
    best_s = machine.run_s(32, in_force(machine, planner))

    taken_s, _ = serve(machine, planner, [32], 400)
    later_s, _ = serve(machine, planner, [32], 400)

    assert later_s <= taken_s <= 1.02 * 400 * best_s


def test_sizes_of_the_user_are_in_every_plan():
    """No plan, trial or not, has another size where the user gave one."""
    machine = Machine(BALANCED)
    planner = planner_for(machine, micro_batch_size={"inference": 5})
    seen = set()
    for rows in [32, 3, 17] * 60:
        seen.add(planner.plan(rows).inference)
        machine.batch_s(planner, rows)

    assert {5} == seen


def test_with_all_sizes_given_there_is_one_plan():
    """Numbers for all stages are the plan for every batch, whatever it costs."""
    machine = Machine([linear(0.01, 0)] * 3)
    planner = planner_for(machine, micro_batch_size=4)
    for _ in range(50):
        assert Plan.of(4) == planner.plan(32)
        machine.batch_s(planner, 32)
    assert repr(planner).endswith("a call costs as yet unknown>")  # nothing is learned for nothing


def test_inference_sizes_are_allowed_ones():
    """Only sizes that the model was compiled for are planned, in trials too."""
    allowed = [4, 8, 16]
    machine = Machine(BALANCED)
    planner = planner_for(machine, allowed_sizes=allowed)
    seen = set()
    for rows in [32, 3, 16, 9] * 40:
        seen.add(planner.plan(rows).inference)
        machine.batch_s(planner, rows)

    assert seen <= set(allowed)


def test_stages_are_cut_alike_until_payloads_are_known():
    """What cannot be cut or joined is never asked to be; once known, stages get their own sizes."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine, regroups=False)
    for _ in range(60):
        machine.batch_s(planner, 32)
        assert len(set(in_force(machine, planner))) == 1

    planner.payloads(rows=True)
    serve(machine, planner, [32], 20)
    assert len(set(in_force(machine, planner))) > 1

    planner.keep_together()
    serve(machine, planner, [32], 20)
    assert len(set(in_force(machine, planner))) == 1


def test_a_payload_that_is_no_rows_settles_it():
    """Stages stay alike."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine, regroups=False)
    planner.payloads(rows=False)

    serve(machine, planner, [32], 40)

    assert len(set(in_force(machine, planner))) == 1


def test_the_same_batches_give_the_same_plans():
    """Nothing is left to chance."""

    def plans():
        machine = Machine(BALANCED, PerStage(2, 1, 1), noise=0.05)
        planner = planner_for(machine)
        found = []
        for rows in [32, 7, 19] * 50:
            found.append(planner.plan(rows))
            machine.batch_s(planner, rows)
        return found

    assert plans() == plans()


def test_a_change_of_the_usual_plan_is_one_line_in_the_log(caplog):
    """Said once with sizes, times and costs; not again while it stays or soon after."""
    caplog.set_level(logging.INFO)
    now_s = 0.0
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine, now_s=lambda: now_s)
    serve(machine, planner, [32], 200)

    (record,) = caplog.records
    assert (
        "micro-batching 32 requests as preprocess 8, inference 16, postprocess 16: "
        "39.4 ms instead of 66.1 ms whole. Whole, calls of 32.2 + 17.8 + 16.1 = 66.1 ms; "
        "batches take 1.00 times that. Split, calls of 4 x 8.27, 2 x 11.5, 2 x 8.17 ms, 0.07 ms of "
        "each to hand it over, end after 39.4 ms in 2, 1, 1 lanes; batches take 1.00 times that"
    ) == record.getMessage()

    machine.cores = 1
    serve(machine, planner, [32], 100)
    assert len(caplog.records) == 1
    now_s = 31.0
    serve(machine, planner, [32], 100)
    assert len(caplog.records) == 2
    assert "as preprocess 32, inference 32, postprocess 32: " in caplog.messages[1]


@pytest.mark.parametrize("seed", range(4))
def test_what_the_log_predicts_follows_from_the_costs_that_it_prints(seed, caplog):
    """Where cores are short, too: by the sum or the schedule of the calls, times what it names."""
    caplog.set_level(logging.INFO)
    chance = random.Random(seed)
    costs = [linear(chance.uniform(0, 0.01), chance.uniform(0.0002, 0.002)) for _ in STAGES]
    machine = Machine(costs, PerStage(2, 1, 2), cores=2, noise=0.05, seed=seed)
    serve(machine, planner_for(machine, batch_size=30), [30], 100)

    (told,) = caplog.messages
    head, whole, split = re.split(r"\. (?=Whole|Split)", told)
    sizes = tuple(map(int, re.findall(r"(?:process|inference) (\d+)", head)))
    split_ms, whole_ms = map(float, re.findall(r"([\d.]+) ms", head))
    *inline_ms, sum_ms, slower = _numbers(whole)
    assert sum(inline_ms) == pytest.approx(sum_ms, rel=0.01)
    # Each of the three is rounded, by up to half a percent.
    assert sum_ms * slower == pytest.approx(whole_ms, rel=0.015)

    calls, ends = split.split(" ms, 0.07 ms of each")
    *_, end_ms, _, _, _, slower = _numbers(ends)
    assert end_ms * slower == pytest.approx(split_ms, rel=0.015)
    costs_ms = []
    for size, told in zip(sizes, calls.split(", ")[1:], strict=True):
        count, full_ms, *last_ms = _numbers(told)
        assert count + len(last_ms) == -(-30 // size)
        costs_ms.append({size: full_ms, (30 - 1) % size + 1: (last_ms or [full_ms])[0]})
    due = Forecast(30, [cost_ms.__getitem__ for cost_ms in costs_ms], (2, 1, 2), 0.0)
    assert due.finish_s(sizes) == pytest.approx(end_ms, rel=0.01)


def _numbers(text) -> list[float]:
    return [float(number) for number in re.findall(r"\d[\d.]*", text)]


def test_a_planner_shows_its_plan_and_its_model():
    """Its representation has the plan of the usual batch and what calls cost."""
    machine = Machine(BALANCED)
    planner = planner_for(machine)
    assert "<Planner 32 requests: unplanned; a call costs as yet unknown>" == repr(planner)

    serve(machine, planner, [16], 40)

    assert repr(planner).startswith("<Planner 16 requests: preprocess ")
    assert "a call costs preprocess 0.2+1k ms" in repr(planner)


def test_looking_for_plans_is_paid_from_a_small_share_of_time():
    """When it takes too long, batches stay as they are."""
    looks = count()
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine, now_s=lambda: next(looks) * 1000)

    assert {Plan.of(32)} == set(plans_of(machine, planner, [32] * 50))


def test_a_plan_stays_while_there_is_no_time_to_look_for_others():
    """What is known by then stays in force."""
    looks, look_s = count(), 0.001
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine, now_s=lambda: next(looks) * look_s)
    serve(machine, planner, [32], 50)

    look_s = 1e6
    plans = plans_of(machine, planner, [32] * 60)

    assert 1 == len(set(plans[20:]))
    assert not plans[-1].fits(32)


def test_splits_come_back_after_a_pause():
    """Some batches that take ten times as long, split or not, do not end a good split."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine)
    serve(machine, planner, [32], 50)
    for _ in range(6):
        plan = planner.plan(32)
        planner.finished(32, plan, 10 * machine.run_s(32, plan))

    serve(machine, planner, [32], 40)
    taken_s, whole_s = serve(machine, planner, [32], 40)

    assert taken_s < 0.75 * whole_s


def test_on_a_machine_that_becomes_slower_batches_stay_split():
    """Whole batches take longer there, too."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine)
    serve(machine, planner, [32], 50)
    machine.costs = [linear(0.0004, 0.002), linear(0.010, 0.0008), linear(0.0002, 0.001)]

    taken_s, whole_s = serve(machine, planner, [32], 80)

    assert taken_s < 0.8 * whole_s


def test_what_a_failed_batch_leaves_is_not_learned():
    """Calls of a batch that never finished do not count for the next."""
    machine = Machine(BALANCED)
    planner = planner_for(machine)
    planner.plan(32)
    planner.observe("inference", 32, 99.0)
    machine.batch_s(planner, 32)

    assert "inference 17.8 ms" in repr(planner)


def test_a_plan_whose_batches_fail_does_not_stay():
    """Where batches finish only if they are whole, they are soon planned whole."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine)
    plans = []
    for _ in range(100):
        plans.append(planner.plan(32))
        if plans[-1].fits(32):
            machine.batch_s(planner, 32)

    assert sum(not plan.fits(32) for plan in plans) < 50


def test_callers_plan_at_the_same_time():
    """Several threads plan, observe and finish; all plans are valid."""
    machine = Machine(BALANCED, PerStage(2, 1, 1))
    planner = planner_for(machine)
    start = threading.Barrier(4)
    errors = []

    def caller(seed):
        mine = Machine(BALANCED, machine.lanes, seed=seed)
        start.wait()
        try:
            for rows in [32, 16, 5] * 30:
                mine.batch_s(planner, rows)
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=caller, args=(seed,)) for seed in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()

    assert [] == errors
    assert "a call costs preprocess" in repr(planner)
