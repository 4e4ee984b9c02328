"""The tuner's model of a batch, and the search it guides, beside simulated machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.simulated import Machine, linear
from harness.tuned import SimulatedRunner
from micro_batch_handler.config import MicroBatchingConfig, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.model import BatchModel, Corrections
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.search import Search, candidates
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget

TWO = PerStage(2, 1, 2)


def modelled(machine, cores, workers=(1,), **about):
    """A runner, and the model that measuring its stages gives."""
    runner = SimulatedRunner(machine, **about)
    space = space_of(cores, workers)
    measured = measure(runner, space, TimeBudget(20, now_s=lambda: runner.now_s), 0.5)
    return runner, BatchModel(measured, space.size_options(), cores)


def space_of(cores, workers=(1,)):
    """Batches of up to 16, and up to two lanes."""
    return Space(MicroBatchingConfig(), [1, 2, 4, 8, 16], TWO, cores, workers)


def with_contention(model, contention):
    """The same model, with other factors by which lanes hold one another up."""
    return replace(model, measured=replace(model.measured, contention=contention))


@pytest.mark.parametrize(
    "setting",
    [
        Setting.whole(16),
        Setting.whole(5),
        Setting(16, Plan(1, 8, 16)),
        Setting(16, Plan(2, 4, 2), TWO),
        Setting(7, Plan(3, 7, 1), TWO),
    ],
    ids=str,
)
def test_batches_take_what_was_predicted(setting):
    """Where cores are plenty, within 2 %, for sizes that were never measured too."""
    costs = [linear(0.001, 0.004), linear(0.008, 0.0006), linear(0.002, 0.0005)]
    runner, model = modelled(Machine(costs), 8)

    assert model.batch_s(setting) == pytest.approx(runner.batch_s(setting), rel=0.02)


def test_lanes_that_share_a_core_are_not_expected_to_help():
    """Two lanes of the only stage that costs take as long as one, on one core."""
    costs = [linear(0, 0.004), linear(0, 1e-5), linear(0, 1e-5)]
    runner, model = modelled(Machine(costs, cores=1), 1)
    setting = Setting(16, Plan(2, 16, 16), TWO)

    assert model.batch_s(setting) == pytest.approx(runner.batch_s(setting), rel=0.05)
    assert replace(with_contention(model, {}), cores=8).batch_s(setting) < 0.6 * runner.batch_s(
        setting
    )


def test_lanes_that_hold_one_another_up_are_not_expected_to_help():
    """Where calls take twice as long in two lanes, though cores are plenty, a lock is between."""
    _, model = modelled(Machine([linear(0, 0.004), linear(0, 1e-5), linear(0, 1e-5)]), 8)
    alone, both = Setting(16, Plan(2, 16, 16)), Setting(16, Plan(2, 16, 16), TWO)

    assert model.batch_s(both) < 0.6 * model.batch_s(alone)
    locked = with_contention(model, {(0, 2): 2.0})
    assert locked.batch_s(both) == pytest.approx(model.batch_s(alone), rel=0.05)


def test_stages_that_overlap_take_no_less_than_their_work_on_all_cores():
    """Three stages that cost alike cannot all run at once on two cores."""
    runner, model = modelled(Machine([linear(0, 0.003)] * 3, cores=2), 2)
    setting = Setting(16, Plan(1, 1, 1))

    assert model.batch_s(setting) == pytest.approx(runner.batch_s(setting), rel=0.1)
    assert replace(model, cores=8).batch_s(setting) < 0.8 * runner.batch_s(setting)


@pytest.mark.parametrize("setting", [Setting.whole(16), Setting(16, Plan(4, 4, 4))], ids=str)
def test_workers_share_the_cores(setting):
    """Four on two cores take at least twice as long each; one that has a core is not disturbed."""
    runner, model = modelled(Machine([linear(0, 0.003)] * 3, cores=2), 2)

    two, four = (replace(setting, workers=count) for count in (2, 4))
    assert model.batch_s(four) == pytest.approx(runner.batch_s(four), rel=0.1)
    assert model.batch_s(Setting.whole(16)) == pytest.approx(
        model.batch_s(Setting.whole(16, workers=2))
    )
    assert model.batch_s(four) == pytest.approx(2 * model.batch_s(two), rel=0.01)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_threads_gain_is_measured_and_predicted(threads):
    """Calls of inference with as many in each, in whole batches and in a lane, within 5 %."""
    machine = Machine([linear(0, 0.0005), linear(0.002, 0.003), linear(0, 0.0002)], cores=4)
    runner, model = modelled(machine, 4, [1, 2], parallel=0.8)

    for setting in (Setting.whole(16), Setting(16, Plan(8, 16, 16))):
        given = replace(setting, threads=PerStage("auto", threads, "auto"))
        assert model.batch_s(given) == pytest.approx(runner.batch_s(given), rel=0.05)


def test_workers_have_fewer_threads_than_were_measured():
    """Two on two cores have one thread each, so their calls take longer than those of one."""
    machine = Machine([linear(0, 0.0005), linear(0.002, 0.003), linear(0, 0.0002)], cores=2)
    runner, model = modelled(machine, 2, [1, 2], parallel=0.8)

    for setting in (Setting.whole(16), Setting(16, Plan(8, 16, 16))):
        two = replace(setting, workers=2)
        assert model.batch_s(two) == pytest.approx(runner.batch_s(two), rel=0.1)


def test_processor_time_that_cannot_be_measured_is_that_of_one_core():
    """Of short calls on a busy machine none is left once what was around them is taken off."""

    class Busy(SimulatedRunner):
        def _batch(self, setting):
            return super()._batch(setting)._replace(cpu_s=0.0)

    space = space_of(2, (1, 2))
    runner = Busy(Machine([linear(0.001, 0.001)] * 3, cores=2))
    measured = measure(runner, space, TimeBudget(20, now_s=lambda: runner.now_s), 0.5)
    model = BatchModel(measured, space.size_options(), 2)

    _, usual = modelled(Machine([linear(0.001, 0.001)] * 3, cores=2), 2, (1, 2))
    for setting in (Setting.whole(16), Setting(16, Plan(2, 4, 2), TWO, workers=2)):
        assert model.batch_s(setting) == pytest.approx(usual.batch_s(setting), rel=0.05)


def test_what_batches_took_corrects_what_is_expected_of_others():
    """A setting that took 30 % longer makes others of its kind expected longer, and no others."""
    _, model = modelled(Machine([linear(0.001, 0.003)] * 3), 8)
    seen, alike = Setting(16, Plan(4, 4, 4), TWO), Setting(8, Plan(2, 2, 2), TWO)
    fewer, whole = Setting(16, Plan(4, 4, 4)), Setting.whole(16)

    taken_s = {seen: 1.3 * model.batch_s(seen), whole: model.batch_s(whole)}
    corrections = Corrections(model, taken_s)

    for setting, factor in ((seen, 1.3), (alike, 1.3), (fewer, 1.3), (whole, 1.0)):
        assert corrections.of(setting) == pytest.approx(factor)
    apart = Corrections(model, {**taken_s, fewer: model.batch_s(fewer)})
    assert apart.of(alike) == pytest.approx(1.3)
    assert apart.of(fewer) == pytest.approx(1.0)


def test_running_a_setting_changes_what_is_expected_of_others():
    """The model was made on a quick machine; on one twice as slow, the rest is expected slower."""
    _, model = modelled(Machine([linear(0.001, 0.003)] * 3), 8)
    slow = SimulatedRunner(Machine([linear(0.002, 0.006)] * 3))
    seen, other = Setting(16, Plan(4, 4, 4), TWO), Setting(8, Plan(2, 2, 2), TWO)
    search = Search(slow, model, Load(), [], TimeBudget(60, now_s=lambda: slow.now_s))
    before = search.expected(other)

    search.run(seen)

    assert search.expected(other).batch_s == pytest.approx(2 * before.batch_s, rel=0.05)
    assert search.predicted[seen].batch_s == pytest.approx(slow.batch_s(seen) / 2, rel=0.05)


def test_coarser_sizes_are_proposed_too():
    """Where calls cost much and cores are short, the finest plan is not the only one tried."""
    _, model = modelled(Machine([linear(0.002, 0.003)] * 3), 8)

    plans = {each.plan for each in model.proposals(16, TWO)}
    assert (16, 16, 16) in plans
    assert len(plans) > 2


def test_the_search_ends_when_what_looks_best_was_run():
    """For each goal the best three; and then one for each batch size."""
    runner, model = modelled(Machine([linear(0.002, 0.003)] * 3, cores=2), 2)
    found = candidates(model, space_of(2))
    wanted = goals(100, None)
    search = Search(runner, model, Load(), wanted, TimeBudget(1e6, now_s=lambda: runner.now_s))

    search.explore(found, 1)

    for goal in wanted:
        ranked = goal.ranked(search.known(found))
        assert all(each.batches for each in ranked[:3])
    assert {1, 2, 4, 8, 16} == {setting.batch_size for setting in search.trials}
    assert len(search.trials) < len(found)


def test_the_search_stops_when_its_time_is_over():
    """Not one setting is begun after that."""
    runner, model = modelled(Machine([linear(0.002, 0.003)] * 3), 8)
    search = Search(runner, model, Load(), goals(None, None), TimeBudget(0, now_s=lambda: 1))

    search.explore([Setting.whole(4)], 1)

    assert not search.trials
