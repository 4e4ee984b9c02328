"""The parts of the tuner: load on a worker, goals, workers, memory, model-config.yaml."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.planning.cost_curve import Line
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.handler_runner import PeakMemory
from micro_batch_handler.tools.tuning.handler_tuning import started_workers
from micro_batch_handler.tools.tuning.load import Figures, Load, percentile
from micro_batch_handler.tools.tuning.result import MIB, Goal, Utilization, frontier, goals
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import MeasuredBatch, Trial, spread
from micro_batch_handler.tracing.recording import TracedBatch
from tests.tracing.traced import a_row, scheduled

pytest.importorskip("ruamel.yaml")

from micro_batch_handler.tools.tuning.yaml_file import as_yaml, update

YAML = """\
# head
batchSize: 16        # most requests
maxBatchDelay: 20
responseTimeout: 60

# ours
micro_batching:
  # why one by one
  micro_batch_size:
    preprocess: 1
    inference: 8   # the model's
    postprocess: 8
  on_error: "isolate"

handler:
  labels:
  - a
  - b
# tail
"""

EIGHT = Setting.whole(8)
SETTING = Setting(32, Plan(2, 16, 32), PerStage(2, 1, 1))


def test_throughput_counts_the_gap():
    """32 requests in a batch of 90 ms and a gap of 10 ms are 320 a second."""
    load = Load(Line(0.002, 0.00025))

    assert load.rate(Setting.whole(32), 0.09) == pytest.approx(320)


def test_latency_is_the_rest_of_the_batch_before_and_the_own_one():
    """Between one and two cycles, evenly, and the delay for company."""
    load = Load(Line(0.01, 0.0))
    latencies_s = load.latencies_s(EIGHT, [0.09, 0.09])

    assert load.max_batch_delay_ms(EIGHT, 0.09) == 10
    assert percentile(latencies_s, 0.5) == pytest.approx(0.15 + 0.01, rel=0.01)
    assert percentile(latencies_s, 0.99) == pytest.approx(0.199 + 0.01, rel=0.01)


def test_a_long_batch_makes_the_next_one_wait():
    """One batch of 1 s among batches of 0.1 s shows in the p99, for its own and the next."""
    load = Load(Line(0.0, 0.0))
    latencies_s = load.latencies_s(EIGHT, [0.1] * 9 + [1.0])

    assert percentile(latencies_s, 0.5) < 0.3
    assert percentile(latencies_s, 0.99) > 1.0


def test_a_batch_of_one_waits_for_nobody():
    """Its delay is none; others wait a millisecond at least, a tenth of a second at most."""
    load = Load()

    assert (0, 1, 100) == (
        load.max_batch_delay_ms(Setting.whole(1), 0.5),
        load.max_batch_delay_ms(Setting.whole(2), 0.001),
        load.max_batch_delay_ms(Setting.whole(64), 9.0),
    )


def figures(batch_size, rate, p99_s, memory_mib=100):
    """A setting with these figures."""
    setting = Setting.whole(batch_size)
    return Figures(setting, rate, p99_s / 2, p99_s, memory_mib * MIB, p99_s / 2, 1, batches=5)


def test_of_settings_about_as_fast_the_one_with_less_latency_is_best():
    """1 % more throughput is not worth twice the latency; 10 % more is."""
    small, large = figures(8, 100, 0.1), figures(16, 101, 0.2)
    goal = Goal("throughput")

    assert small == goal.best([large, small])
    assert goal.best([replace(large, rate=110), small]).setting == large.setting
    assert goal.best([]) is None


def test_goals_are_named_by_their_limits():
    """One for each limit, in the order from the loosest to the strictest."""
    assert ["the most throughput"] == [goal.title for goal in goals(None, None)]
    assert "p99 at most 50 ms" == goals(50, None)[-1].title
    assert "p99 at most 50 ms with at most 300 MiB" == goals(50, 300)[-1].title


def test_the_frontier_has_no_setting_that_another_beats_in_both():
    """What is slower and waits longer than another is not on it."""
    points = [figures(1, 10, 0.1), figures(2, 20, 0.2), figures(4, 15, 0.3), figures(8, 30, 0.4)]

    assert [1, 2, 8] == [each.setting.batch_size for each in frontier(points)]


def test_spread_is_not_moved_by_one_pause():
    """Of five alike measures, one that is ten times as long tells nothing of the others."""
    assert spread([1.0, 1.0, 1.0, 1.0, 10.0]) == 0
    assert spread([0.9, 1.0, 1.1]) == pytest.approx(0.148, abs=0.001)


@pytest.mark.parametrize(
    ("model_yaml", "devices", "started"),
    [
        ({}, 0, 6),
        ({}, 2, 2),
        ({"minWorkers": 3, "maxWorkers": 4}, 2, 3),
        ({"minWorkers": 3}, 0, 6),
        ({"minWorkers": 3, "maxWorkers": 2}, 0, 6),
    ],
)
def test_as_many_workers_count_as_torchserve_would_start(model_yaml, devices, started):
    """What the file says, if it says both numbers in order; else one for each GPU, or core."""
    assert started == started_workers(model_yaml, 6, devices)


def test_workers_together_serve_and_hold_what_each_does():
    """Two whose batches of 10 take 100 ms with the gap: 200 requests/s, and twice the memory."""
    load = Load(Line(0.01, 0.0))
    setting = Setting.whole(10, workers=2)
    traced = TracedBatch(10, setting.plan, 0.0, 0.09, ())

    found = load.measured(setting, [Trial([MeasuredBatch(traced, 0.0, 100 * MIB)] * 4)])

    assert (200, 200 * MIB) == (pytest.approx(found.rate), found.memory_bytes)
    assert load.latencies_s(Setting.whole(10), [0.09]) == load.latencies_s(setting, [0.09])
    assert "10 whole, 2 workers" == str(setting)
    assert (2, 2) == tuple(setting.keys(7)[key] for key in ("minWorkers", "maxWorkers"))


def test_more_clients_than_batches_hold_wait_in_a_queue():
    """The mean latency is their number divided by the throughput; with few, it is as it was."""
    few, many = Load(Line(0.01, 0.0), clients=10), Load(Line(0.01, 0.0), clients=100)
    one, two = Setting.whole(10), Setting.whole(10, workers=2)

    assert Load(Line(0.01, 0.0)).latencies_s(one, [0.09]) == few.latencies_s(one, [0.09])
    waits_s = many.latencies_s(two, [0.09])
    delay_s = many.max_batch_delay_ms(two, 0.09) / 1000
    assert sum(waits_s) / len(waits_s) == pytest.approx(100 / 200 + delay_s)
    crowd = Setting.whole(10, workers=99)
    assert (True, True, False) == (few.fills(one), Load().fills(crowd), few.fills(two))


def test_cores_that_are_used_are_told_of_those_that_there_are():
    """Never more than there are, though a quota lets a process have more for a moment."""
    setting = Setting(8, Plan(1, 1, 1))
    batch = scheduled(8, setting.plan, [a_row(0.01)] * 3)

    def told(cores_used):
        trial = Trial([MeasuredBatch(batch, cores_used * batch.wall_s, 0)])
        return str(Utilization.of(setting, [trial], Load(), 2))

    assert "2.0 of 2 cores are" in told(4.98)
    assert "1.3 of 2 cores are" in told(1.34)


def test_the_peak_of_memory_is_set_back_and_read():
    """What was held before does not count; a hundred MiB held meanwhile do."""
    memory = PeakMemory()
    memory.trim()
    memory.begin()
    before = memory.peak_bytes()
    if not before:
        pytest.skip("this system does not tell")
    held = bytearray(100 * MIB)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    del held
    assert memory.peak_bytes() > before + 90 * MIB

    memory.begin()
    assert memory.peak_bytes() < before + 50 * MIB


def test_where_the_peak_cannot_be_set_back_nothing_is_said(tmp_path):
    """Better no figure than the peak of something else."""
    (tmp_path / "status").write_text("VmHWM:\t  2048 kB\n")
    memory = PeakMemory(tmp_path)
    memory.begin()
    assert memory.peak_bytes() == 2 * MIB

    (tmp_path / "clear_refs").unlink()
    (tmp_path / "clear_refs").mkdir()  # cannot be written
    memory.begin()
    assert memory.peak_bytes() == 0


@pytest.fixture
def file(tmp_path):
    """A model-config.yaml with comments."""
    path = tmp_path / "model-config.yaml"
    path.write_text(YAML)
    return path


def test_only_the_values_change(file):
    """Comments, order, quotes and other keys stay; new keys come at the end of their mapping."""
    assert update(file, SETTING.keys(7))

    lines = file.read_text().splitlines()
    changed = [line for line in lines if line not in YAML.splitlines()]
    assert [
        "batchSize: 32        # most requests",
        "maxBatchDelay: 7",
        "    preprocess: 2",
        "    inference: 16  # the model's",
        "    postprocess: 32",
        "  parallelism: {preprocess: 2, inference: 1, postprocess: 1}",
        "  intra_op_threads: auto",
    ] == [line for line in changed if not line.startswith(("min", "max")) or "Delay" in line]
    kept = [line for line in YAML.splitlines() if line in lines]
    assert len(kept) == len(YAML.splitlines()) - 5
    assert yaml.safe_load(file.read_text())["micro_batching"]["on_error"] == "isolate"


def test_a_file_that_says_it_already_stays_as_it_is(file):
    """Not even its time changes."""
    update(file, SETTING.keys(7))
    before = file.stat().st_mtime_ns

    assert not update(file, SETTING.keys(7))
    assert before == file.stat().st_mtime_ns


def test_a_file_without_our_section_gets_it(file):
    """One that is empty but for TorchServe's keys, or where `auto` stood, holds the setting."""
    file.write_text("batchSize: 4\nmicro_batching: {micro_batch_size: auto}\n")
    update(file, SETTING.keys(7))

    assert yaml.safe_load(as_yaml(SETTING.keys(7))) == yaml.safe_load(file.read_text())


def test_values_that_would_change_too_are_not_touched(file):
    """An anchor that other keys share: the file stays, and the reader gets the keys to put in."""
    shared = "a: &sizes {preprocess: 1}\nmicro_batching: {micro_batch_size: *sizes}\n"
    file.write_text(shared)

    with pytest.raises(ConfigError, match="by hand:\nminWorkers"):
        update(file, SETTING.keys(7))
    assert shared == file.read_text()
    assert [file] == list(file.parent.iterdir())
