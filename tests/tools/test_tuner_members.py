"""The tuner with workers around one model, on machines with known costs, in simulated time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.simulated import Machine, linear
from harness.tuned import MIB, SimulatedRunner
from micro_batch_handler.config import SECTION, MicroBatchingConfig, PerStage
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measurements import Collector
from micro_batch_handler.tools.tuning.report import keys_of, report
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget, Trial
from micro_batch_handler.tools.tuning.tuner import tune

LOAD = Load()
COUNTS = (1, 2, 4, 8)
MODEL_MIB, WORKER_MIB = 500, 100


class OneAccelerator(SimulatedRunner):
    """All models are on one accelerator, which works on one call at a time; cores are plenty."""

    dear = 0.0
    """Seconds that a call of a shared model takes on its way there and back."""

    def _batch(self, setting):
        batch = super()._batch(setting)
        count = -(-setting.batch_size // setting.plan.inference)
        model_s = count * self.machine.costs[1](min(setting.batch_size, setting.plan.inference))
        extra_s = count * self.dear if setting.shares else 0.0
        seconds = max(batch.seconds + extra_s, setting.workers * model_s)
        traced = batch.traced._replace(ended_s=seconds)
        own_mib = WORKER_MIB if setting.shares else WORKER_MIB + MODEL_MIB
        batch = batch._replace(traced=traced, peak_bytes=own_mib * MIB)
        return batch._replace(host_bytes=MODEL_MIB * MIB) if setting.shares else batch


def machine():
    """Preprocess takes twice as long as inference, so that one worker keeps it a third busy."""
    return Machine([linear(0.001, 0.002), linear(0.004, 0.001), linear(0.0001, 0.0001)])


def tuned(runner, memory_mib=None, given=None, **config):
    config = MicroBatchingConfig.from_section(config)
    space = Space(config, [4, 8, 16], PerStage(1, 1, 1), 64, COUNTS, COUNTS)
    given = given or Setting.whole(4)
    budget = TimeBudget(60, now_s=lambda: runner.now_s)
    return tune(runner, given, space, goals(None, memory_mib), budget, LOAD)


def best_of_all(runner, *, shares):
    """The most requests per second of any number of workers, each with whole batches."""
    rates = {}
    for workers in COUNTS:
        setting = Setting.whole(16, workers)
        trial = runner.run(replace(setting, shares=shares))
        rates[workers] = LOAD.rate(setting, trial.seconds)
    return rates


def test_the_number_of_members_is_what_trying_all_finds():
    """Within 10 %, where memory allows one copy of the model only."""
    runner = OneAccelerator(machine())
    tuning = tuned(runner, memory_mib=MODEL_MIB + 4 * WORKER_MIB)
    free, limited = (each.measured for each in tuning.recommendations)

    assert limited.setting.shares
    rates = best_of_all(runner, shares=True)
    most = max(rate for workers, rate in rates.items() if workers <= 4)
    assert limited.rate > 0.9 * most
    assert free.rate > 0.9 * max(rates.values())
    assert limited.memory_bytes == (MODEL_MIB + limited.setting.workers * WORKER_MIB) * MIB


def test_what_one_copy_costs_is_told():
    """A dear way to the model: throughput and memory against a copy each, and the best of each."""
    runner = OneAccelerator(machine())
    runner.dear = 0.2
    tuning = tuned(runner)
    told = report(tuning)

    assert not tuning.recommendations[0].measured.setting.shares
    assert "One copy of the model for all workers means " in told
    assert "% less throughput and " in told
    assert "Of workers around one model (share_model): " in told
    assert "share_model" not in keys_of(tuning.recommendations[0])[SECTION]


def test_what_the_file_says_of_sharing_is_changed_only_if_it_must_be():
    """A file that shares is told not to where copies are faster, and members are as it is."""
    runner = OneAccelerator(machine())
    runner.dear = 0.2
    given = replace(Setting.whole(4, 2), shares=True)
    tuning = tuned(runner, given=given, share_model=True)

    assert "as it is: 4 whole, 2 around one model" in report(tuning)
    assert keys_of(tuning.recommendations[0])[SECTION]["share_model"] is False
    assert tuning.measured.host_bytes == MODEL_MIB * MIB
    assert all(each.shares for each in runner.settings[:10])  # stages are measured as they are


def test_waiting_for_others_in_the_shared_process_is_no_cost_of_a_call():
    """Of 100 ms that a call took, it waited 60 for another one's."""
    runner = SimulatedRunner(Machine([linear(0.1, 0.0)] * 3))
    setting = replace(Setting.whole(4), shares=True)
    (batch,) = runner.run(setting).batches

    class Host:
        came_s, began_s, ended_s = 0.0, 0.06, 0.1

    calls = [call._replace(host=Host()) for call in batch.traced.calls]
    found = Collector(lambda rows: rows, PerStage.of(1), 1)
    found.add(setting, Trial([batch._replace(traced=batch.traced._replace(calls=calls))]))

    assert found.measurements(4, 1).whole[1](4) == pytest.approx(0.04)
