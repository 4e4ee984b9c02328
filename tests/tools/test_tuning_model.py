"""The tuner's model of a batch, and the search it guides, beside simulated machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.simulated import Machine, linear
from harness.tuned import SimulatedBench
from micro_batch_handler.config import MicroBatchingConfig, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.goals import goals
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.search import Expectations, candidates, threads_to_try
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.verify import FEW, Verified, explore

TWO = PerStage(2, 1, 2)
CHOICES = SizeOptions(MicroBatchingConfig())


def modelled(machine, cores):
    """A bench, and the model that measuring it gives."""
    bench = SimulatedBench(machine)
    budget = Budget(20, now_s=lambda: bench.now_s)
    measured = measure(bench, CHOICES, [1, 2, 4, 8, 16], TWO, budget, 0.5)
    return bench, BatchModel.of(measured, CHOICES, cores)


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
    bench, model = modelled(Machine(costs), 8)

    assert model.batch_s(setting) == pytest.approx(bench.batch_s(setting), rel=0.02)


def test_lanes_that_share_a_core_are_not_thought_to_help():
    """Two lanes of the only stage that costs take as long as one, on one core."""
    costs = [linear(0, 0.004), linear(0, 1e-5), linear(0, 1e-5)]
    bench, model = modelled(Machine(costs, cores=1), 1)
    setting = Setting(16, Plan(2, 16, 16), TWO)

    assert model.batch_s(setting) == pytest.approx(bench.batch_s(setting), rel=0.05)
    assert replace(model, contention={}, cores=8).batch_s(setting) < 0.6 * bench.batch_s(setting)


def test_lanes_that_hold_one_another_up_are_not_thought_to_help():
    """Where calls take twice as long in two lanes, though cores are plenty, a lock is between."""
    _, model = modelled(Machine([linear(0, 0.004), linear(0, 1e-5), linear(0, 1e-5)]), 8)
    alone, both = Setting(16, Plan(2, 16, 16)), Setting(16, Plan(2, 16, 16), TWO)

    assert model.batch_s(both) < 0.6 * model.batch_s(alone)
    locked = replace(model, contention={(0, 2): 2.0})
    assert locked.batch_s(both) == pytest.approx(model.batch_s(alone), rel=0.05)


def test_stages_that_overlap_take_no_less_than_their_work_on_all_cores():
    """Three stages that cost alike cannot all run at once on two cores."""
    bench, model = modelled(Machine([linear(0, 0.003)] * 3, cores=2), 2)
    setting = Setting(16, Plan(1, 1, 1))

    assert model.batch_s(setting) == pytest.approx(bench.batch_s(setting), rel=0.1)
    assert replace(model, cores=8).batch_s(setting) < 0.8 * bench.batch_s(setting)


@pytest.mark.parametrize("setting", [Setting.whole(16), Setting(16, Plan(4, 4, 4))], ids=str)
def test_workers_share_the_cores(setting):
    """Four on two cores take at least twice as long each; one that has a core is not disturbed."""
    bench, model = modelled(Machine([linear(0, 0.003)] * 3, cores=2), 2)

    two, four = (replace(setting, workers=count) for count in (2, 4))
    assert model.batch_s(four) == pytest.approx(bench.batch_s(four), rel=0.1)
    assert model.batch_s(Setting.whole(16)) == pytest.approx(
        model.batch_s(Setting.whole(16, workers=2))
    )
    assert model.batch_s(four) == pytest.approx(2 * model.batch_s(two), rel=0.01)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_threads_gain_is_measured_and_foretold(threads):
    """Calls of inference with as many in each, unsplit and in a lane, within 5 %."""
    machine = Machine([linear(0, 0.0005), linear(0.002, 0.003), linear(0, 0.0002)], cores=4)
    bench = SimulatedBench(machine, parallel=0.8)
    budget = Budget(20, now_s=lambda: bench.now_s)
    tries = [*threads_to_try(1, 4), *threads_to_try(2, 4)]
    measured = measure(bench, CHOICES, [1, 2, 4, 8, 16], TWO, budget, 0.5, tries, 4)
    model = BatchModel.of(measured, CHOICES, 4)

    for setting in (Setting.whole(16), Setting(16, Plan(8, 16, 16))):
        given = replace(setting, threads=PerStage("auto", threads, "auto"))
        assert model.batch_s(given) == pytest.approx(bench.batch_s(given), rel=0.05)


def test_what_batches_took_corrects_what_is_expected_of_others():
    """A setting that took 30 % longer makes others of its kind expected longer, and no others."""
    _, model = modelled(Machine([linear(0.001, 0.003)] * 3), 8)
    seen, alike = Setting(16, Plan(4, 4, 4), TWO), Setting(8, Plan(2, 2, 2), TWO)
    fewer, whole = Setting(16, Plan(4, 4, 4)), Setting.whole(16)

    corrected = model.corrected({seen: 1.3 * model.batch_s(seen), whole: model.batch_s(whole)})

    for setting, factor in ((seen, 1.3), (alike, 1.3), (fewer, 1.3), (whole, 1.0)):
        assert corrected.batch_s(setting) == pytest.approx(factor * model.batch_s(setting))
    apart = model.corrected({seen: 1.3 * model.batch_s(seen), fewer: model.batch_s(fewer)})
    assert apart.batch_s(alike) == pytest.approx(1.3 * model.batch_s(alike))
    assert apart.batch_s(fewer) == pytest.approx(model.batch_s(fewer))


def test_running_a_setting_changes_what_is_expected_of_others():
    """The model was made on a quick machine; on one twice as slow, the rest is expected slower."""
    _, model = modelled(Machine([linear(0.001, 0.003)] * 3), 8)
    slow = SimulatedBench(Machine([linear(0.002, 0.006)] * 3))
    seen, other = Setting(16, Plan(4, 4, 4), TWO), Setting(8, Plan(2, 2, 2), TWO)
    verified = Verified(Expectations(model, Load()))
    before = verified.expected.of(other)

    verified.run(slow, seen, Budget(60, now_s=lambda: slow.now_s))

    assert verified.expected.of(other).batch_s == pytest.approx(2 * before.batch_s, rel=0.05)
    assert verified.predicted[seen].batch_s == pytest.approx(slow.batch_s(seen) / 2, rel=0.05)


def test_coarser_sizes_are_proposed_too():
    """Where calls cost much and cores are short, the finest plan is not the only one tried."""
    _, model = modelled(Machine([linear(0.002, 0.003)] * 3), 8)

    sizes = {each.sizes for each in model.proposals(16, TWO)}
    assert (16, 16, 16) in sizes
    assert len(sizes) > 2


def test_the_search_ends_when_what_looks_best_was_run():
    """For each goal the best few; and then one for each batch size."""
    bench, model = modelled(Machine([linear(0.002, 0.003)] * 3, cores=2), 2)
    found = candidates(model, [1, 2, 4, 8, 16], TWO)
    wanted = goals(100, None)
    verified = Verified(Expectations(model, Load()))

    explore(bench, verified, found, wanted, Budget(1e6, now_s=lambda: bench.now_s), 1)

    for goal in wanted:
        ranked = goal.ranked(verified.known(found))
        assert all(each.batches for each in ranked[:FEW])
        assert FEW == 3
    assert {1, 2, 4, 8, 16} == {setting.batch_size for setting in verified.visits}
    assert len(verified.visits) < len(found)


def test_the_search_stops_when_its_time_is_over():
    """Not one setting is begun after that."""
    bench, model = modelled(Machine([linear(0.002, 0.003)] * 3), 8)
    verified = Verified(Expectations(model, Load()))

    explore(bench, verified, [Setting.whole(4)], goals(None, None), Budget(0, now_s=lambda: 1), 1)

    assert not verified.visits
