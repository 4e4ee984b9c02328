"""The tuner, on machines with known costs, in simulated time."""

from __future__ import annotations

import random
from itertools import product

import pytest

from harness.simulated import Machine, linear
from harness.tuned import SimulatedRunner
from micro_batch_handler.config import STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import even_sizes
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.report import notes, report
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune
from micro_batch_handler.tracing.diagnosis import diagnose
from micro_batch_handler.tracing.recording import Setup

BATCH_SIZES = [1, 2, 4, 8, 16]
MOST_LANES = PerStage(2, 1, 2)
LOAD = Load()


def tuned(
    runner,
    given=None,
    p99_ms=None,
    memory_mib=None,
    *,
    seconds=30.0,
    workers=(1,),
    load=LOAD,
    **config,
):
    """What the tuner finds in so much simulated time."""
    space = Space(
        MicroBatchingConfig.from_section(config),
        BATCH_SIZES,
        MOST_LANES,
        runner.machine.cores or 4,
        workers,
    )
    budget = TimeBudget(seconds, now_s=lambda: runner.now_s)
    given = given or Setting.whole(4)
    return tune(runner, given, space, goals(p99_ms, memory_mib), budget, load)


def every_setting(batch_sizes=BATCH_SIZES):
    """All that may be chosen."""
    lanes = [PerStage(*each) for each in product((1, 2), (1,), (1, 2))]
    for rows in batch_sizes:
        yield Setting.whole(rows)
        for sizes in product(even_sizes(rows), repeat=len(STAGES)):
            if min(sizes) < rows:
                yield from (Setting(rows, Plan(*sizes), each) for each in lanes)


def rate(runner, setting):
    """Requests per second in a setting, without noise."""
    return LOAD.rate(setting, runner.batch_s(setting))


def drawn(seed, noise=0.0):
    """A machine with any stage the bottleneck, and cores that are plenty or are not."""
    chance = random.Random(seed)
    costs = [
        linear(chance.choice([0.0, chance.uniform(0, 0.02)]), chance.uniform(0.00001, 0.003))
        for _ in STAGES
    ]
    return Machine(costs, cores=chance.choice([None, 1, 2, 4]), noise=noise)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_fitted_costs_are_what_calls_cost(noise):
    """Within 10 %, for calls of any size, in a lane and whole."""
    costs = [linear(0.0005, 0.004), linear(0.008, 0.0006), linear(0.002, 0.0001)]
    measured = tuned(SimulatedRunner(Machine(costs, noise=noise))).measured

    for curves in (measured.whole, measured.lanes):
        for cost, known in zip(costs, curves, strict=True):
            for rows in (1, 3, 16):
                assert known(rows) == pytest.approx(cost(rows), rel=0.1)
            assert known.line.at(16) == pytest.approx(cost(16), rel=0.1)
    assert measured.rounds > 5


@pytest.mark.parametrize(("cores", "factor"), [(None, 1.0), (2, 1.0), (1, 2.0)])
def test_contention_of_lanes_is_found(cores, factor):
    """Two lanes on one core take twice as long each; with cores enough, as long as one."""
    costs = [linear(0.001, 0.004), linear(0.008, 0.0006), linear(0.002, 0.001)]
    measured = tuned(SimulatedRunner(Machine(costs, cores=cores))).measured

    assert measured.contention[0, 2] == pytest.approx(factor, rel=0.1)
    assert measured.contention[2, 2] == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("seed", [0, 2, 4, 6])
def test_the_recommended_setting_is_what_trying_everything_finds(seed):
    """Its throughput is within 5 % of the best of all sizes, lanes and batch sizes."""
    runner = SimulatedRunner(drawn(seed))
    found = tuned(runner).recommendations[0]

    most = max(rate(runner, setting) for setting in every_setting([8, 16]))
    assert rate(runner, found.measured.setting) > 0.95 * most
    assert found.measured.rate == pytest.approx(rate(runner, found.measured.setting), rel=0.01)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_noisy_machine_misleads_it_little(seed):
    """With calls that vary by 10 % and one in a hundred that takes five times as long."""
    machine = drawn(seed, noise=0.1)
    machine.pauses = 0.01
    found = tuned(SimulatedRunner(machine), seconds=60).recommendations[0].measured

    quiet = SimulatedRunner(drawn(seed))
    most = max(rate(quiet, setting) for setting in every_setting([16]))
    assert rate(quiet, found.setting) > 0.9 * most
    assert found.batches >= 8


@pytest.mark.parametrize("seed", [1, 3])
def test_a_latency_limit_is_kept_and_used(seed):
    """The measured p99 is below it, and no setting that keeps to it is 5 % faster."""
    runner = SimulatedRunner(drawn(seed))
    limit_s = 4 * runner.batch_s(Setting.whole(4))
    free, limited = tuned(runner, p99_ms=limit_s * 1000).recommendations

    assert limited.measured.p99_s <= limit_s
    assert limited.measured.rate <= free.measured.rate * 1.001

    def p99_s(setting):
        cycle_s = setting.batch_size / rate(runner, setting)
        delay_ms = LOAD.max_batch_delay_ms(setting, runner.batch_s(setting))
        return 1.99 * cycle_s + delay_ms / 1000

    admitted = [each for each in every_setting() if p99_s(each) <= limit_s]
    assert limited.measured.rate > 0.95 * max(rate(runner, each) for each in admitted)


def test_workers_and_threads_are_searched_together():
    """A network that four threads make twice as fast is served best by four workers of one each.

    With `auto`, by which workers share the cores.
    """
    costs = [linear(0.0001, 0.00001), linear(0.002, 0.01), linear(0.0001, 0.00001)]
    runner = SimulatedRunner(Machine(costs, cores=4), parallel=2 / 3)
    tuning = tuned(runner, Setting.whole(4, workers=4), workers=[1, 2, 4], seconds=60)
    best = tuning.recommendations[0].measured.setting

    assert (4, 1) == (best.workers, best.threads_in_calls(4)[1])
    assert PerStage.of("auto") == best.threads
    assert {1, 2, 4} == {each.setting.workers for each in tuning.tried}
    assert "The best of each number of workers that was run: 1: " in report(tuning)
    assert "4.0 of 4 cores are" in report(tuning)


def test_workers_that_do_not_fit_into_memory_are_not_recommended():
    """Two workers are twice as fast and hold twice as much."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3, cores=8))
    free, limited = tuned(runner, memory_mib=300, workers=[1, 2]).recommendations

    assert (2, 1) == (free.measured.setting.workers, limited.measured.setting.workers)


def test_a_model_that_more_threads_slow_down_gets_one():
    """Also in one worker and for whole batches, where `auto` would give all cores."""
    costs = [linear(0.0001, 0.00001), linear(0.0001, 0.002), linear(0.0001, 0.00001)]
    runner = SimulatedRunner(Machine(costs, cores=4), parallel=-1.0)
    best = tuned(runner).recommendations[0].measured.setting

    assert 1 == best.threads_in_calls(4)[1]


def test_batches_that_the_clients_cannot_fill_are_left_out():
    """Four clients: four requests in one worker, two in each of two."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3, cores=8))
    tuning = tuned(runner, workers=[1, 2], load=Load(clients=4))

    held = {each.setting.batch_size * each.setting.workers for each in tuning.tried}
    assert (4, {1, 2}) == (max(held), {each.setting.workers for each in tuning.tried})


def test_goals_with_one_answer_are_one_block():
    """A limit that the fastest setting keeps to changes nothing, and is told with it."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3))
    told = report(tuned(runner, p99_ms=5000))

    assert 1 == told.count("batchSize:")
    assert "For the most throughput and p99 at most 5000 ms:" in told


def test_a_prediction_that_missed_is_told():
    """Whole batches take twice as long as predicted, for no reason that the calls show."""

    class Odd(SimulatedRunner):
        def _batch(self, setting):
            batch = super()._batch(setting)
            odd = setting.batch_size == 16 and not setting.splits and self.now_s > 10
            late = batch.traced._replace(ended_s=2 * batch.seconds)
            return batch._replace(traced=late) if odd else batch

    machine = Machine([linear(0.01, 0.001)] * 3)
    missed = tuned(Odd(machine), Setting.whole(16))
    kept = tuned(SimulatedRunner(machine), Setting.whole(16))

    (note,) = [note for note in notes(missed) if "% off: " in note]
    assert "16 whole: requests/s" in note
    assert not [note for note in notes(kept) if "% off: " in note]


def test_limits_can_be_wanted_together():
    """One setting for each alone and one for both, which is the last."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3))
    found = tuned(runner, p99_ms=120, memory_mib=209).recommendations

    assert [(False, False), (True, False), (False, True), (True, True)] == [
        (each.goal.p99_s is not None, each.goal.memory_bytes is not None) for each in found
    ]
    assert found[3].measured.p99_s <= 0.12
    assert found[3].measured.setting.batch_size <= 8


def test_a_limit_that_nothing_keeps_gives_no_setting():
    """A batch of one takes longer already."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3))
    _, limited = tuned(runner, p99_ms=20).recommendations

    assert limited.measured is None


def test_a_memory_limit_is_kept():
    """The process holds 200 MiB and one for each request; batches above 8 are out."""
    runner = SimulatedRunner(Machine([linear(0.01, 0.001)] * 3))
    tuning = tuned(runner, memory_mib=209)
    free, limited = (each.measured for each in tuning.recommendations)

    assert free.setting.batch_size == 16
    assert limited.setting.batch_size == 8
    predicted = tuning.predicted[limited.setting]
    assert predicted.memory_bytes == pytest.approx(limited.memory_bytes, rel=0.05)


def test_the_best_setting_is_recognised():
    """Given what it found itself, it says that there is nothing to gain."""
    runner = SimulatedRunner(drawn(3))
    first = tuned(runner).recommendations[0]
    again = tuned(runner, given=first.measured.setting)

    assert not first.already
    assert again.recommendations[0].already
    assert again.given.setting == first.measured.setting


def test_payloads_that_cannot_be_cut_leave_all_stages_alike():
    """Nothing is recommended that would fail, and the reader is told why."""

    def fails(setting):
        if setting.splits and len(set(setting.plan)) > 1:
            return SettingFails("inference: cannot regroup", regroups=False)
        return None

    tuning = tuned(SimulatedRunner(Machine([linear(0.001, 0.002)] * 3), fails=fails))

    assert len(set(tuning.recommendations[0].measured.setting.plan)) == 1
    assert tuning.recommendations[0].measured.setting.splits
    assert any("cannot be cut" in note for note in notes(tuning))
    assert not tuning.failed


def test_a_stage_that_stands_one_thread_only_gets_one():
    """Settings with more lanes, in which requests fail, are neither chosen nor tried again."""

    def fails(setting):
        return SettingFails("two threads") if setting.lanes.preprocess > 1 else None

    runner = SimulatedRunner(Machine([linear(0.001, 0.002)] * 3), fails=fails)
    tuning = tuned(runner)

    assert tuning.measured.most_lanes.preprocess == 1
    assert all(each.setting.lanes.preprocess == 1 for each in tuning.tried)


def test_requests_that_cannot_be_answered_end_it():
    """Its error is what the first request failed with."""
    runner = SimulatedRunner(
        Machine([linear(0.001, 0.002)] * 3), fails=lambda _: SettingFails("no")
    )

    with pytest.raises(SettingFails, match="no"):
        tuned(runner)


def test_allowed_sizes_bind_inference():
    """Inference is tried with these sizes only, and with a cost that counts the padding."""
    costs = [linear(0.0001, 0.001), linear(0.004, 0.0001), linear(0.0001, 0.0001)]
    runner = SimulatedRunner(Machine(costs))
    tuning = tuned(runner, allowed_sizes=[2, 8])

    assert {each.setting.plan[1] for each in tuning.tried[1:]} <= {2, 8}
    split = [each for each in runner.settings if each.splits and each.batch_size <= 8]
    assert {each.plan[1] for each in split} <= {2, 8}
    assert set(tuning.measured.lanes[1].measured) <= {2, 8}


def test_time_that_is_short_leaves_out_large_batches():
    """One batch may take a sixtieth of the time; what is above is not tried, and that is said."""
    runner = SimulatedRunner(Machine([linear(0.0, 0.1)] * 3))
    tuning = tuned(runner, given=Setting.whole(1), seconds=60)

    assert tuning.larger
    assert max(each.setting.batch_size for each in tuning.tried) == 2
    assert any("too long" in note for note in notes(tuning))


def test_a_restless_machine_is_told_of():
    """Where the same batches vary by a third, nobody should believe the figures."""
    costs = [linear(0.001, 0.002)] * 3
    restless = tuned(SimulatedRunner(Machine(costs, noise=0.8)))
    quiet = tuned(SimulatedRunner(Machine(costs, noise=0.01)))

    assert restless.noisy
    assert any("restless" in note for note in notes(restless))
    assert not quiet.noisy
    assert not any("restless" in note for note in notes(quiet))


def test_the_bottleneck_and_the_next_one_are_named():
    """Inference; with it twice as fast, the two lanes of preprocess would take longer."""
    costs = [linear(0, 0.006), linear(0, 0.004), linear(0, 0.0001)]
    utilization = tuned(SimulatedRunner(Machine(costs))).recommendations[0].utilization

    assert "inference" == utilization.diagnosis.bottleneck
    assert 0.1 < utilization.gain < 1.0
    assert "inference is the bottleneck: its 1 lane was busy" in str(utilization)
    assert "and preprocess would be the bottleneck." in str(utilization)


def test_the_trace_and_the_tuner_name_the_same_bottleneck():
    """Whatever holds the recommended setting up, its trials show the trace command the same."""
    for seed in range(4):
        runner = SimulatedRunner(drawn(seed))
        best = tuned(runner).recommendations[0]
        setting = best.measured.setting

        traced = [batch.traced for batch in runner.run(setting).batches]
        setup = Setup("traced", setting.lanes, setting.batch_size, 4)
        assert diagnose(traced, setup).finding in str(best.utilization)
