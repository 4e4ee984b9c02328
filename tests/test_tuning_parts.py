"""The parts of the tuner: load on a worker, goals, workers, memory, model-config.yaml."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.planning.curves import Line
from micro_batch_handler.tools.tuning.batch import Batch, Visit, spread
from micro_batch_handler.tools.tuning.goals import MIB, Figures, Goal, frontier, goals
from micro_batch_handler.tools.tuning.load import Load, percentile
from micro_batch_handler.tools.tuning.memory import PeakMemory
from micro_batch_handler.tools.tuning.outlook import Outlook
from micro_batch_handler.tools.tuning.result import Recommendation
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.workers import with_workers

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

SETTING = Setting(32, (2, 16, 32), PerStage(2, 1, 1))


def test_throughput_counts_the_gap():
    """32 requests in a batch of 90 ms and a gap of 10 ms are 320 a second."""
    load = Load(Line(0.002, 0.00025))

    assert load.rate(32, 0.09) == pytest.approx(320)


def test_latency_is_the_rest_of_the_batch_before_and_the_own_one():
    """Between one and two cycles, evenly, and the delay for company."""
    load = Load(Line(0.01, 0.0))
    latencies_s = load.latencies_s(8, [0.09, 0.09])

    assert load.max_batch_delay_ms(8, 0.09) == 10
    assert percentile(latencies_s, 0.5) == pytest.approx(0.15 + 0.01, rel=0.01)
    assert percentile(latencies_s, 0.99) == pytest.approx(0.199 + 0.01, rel=0.01)


def test_a_long_batch_makes_the_next_one_wait():
    """One batch of 1 s among batches of 0.1 s shows in the p99, for its own and the next."""
    load = Load(Line(0.0, 0.0))
    latencies_s = load.latencies_s(8, [0.1] * 9 + [1.0])

    assert percentile(latencies_s, 0.5) < 0.3
    assert percentile(latencies_s, 0.99) > 1.0


def test_a_batch_of_one_waits_for_nobody():
    """Its delay is none; others wait a millisecond at least, a tenth of a second at most."""
    load = Load()

    assert (0, 1, 100) == (
        load.max_batch_delay_ms(1, 0.5),
        load.max_batch_delay_ms(2, 0.001),
        load.max_batch_delay_ms(64, 9.0),
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


def recommended(cores):
    """A recommendation whose batches use this part of the cores."""
    outlook = Outlook((0.5, 0.9, 0.1), cores, "inference", 0.2, "preprocess")
    measured = replace(figures(10, 100, 0.2), batch_s=0.095)
    return Recommendation(Goal("throughput"), measured, None, already=False, outlook=outlook)


def side_by_side(seconds):
    """Copies whose batches take so long in each of them, and hold 100 MiB."""
    return lambda _, count: [Visit([Batch(seconds, (), 0.0, 100 * MIB)] * 3)] * count


def test_a_second_worker_is_not_tried_where_the_cores_are_busy():
    """The reader is told why, and what it would hold; no copy is started."""
    found = with_workers(recommended(1.0), 2, Load(), lambda *_: pytest.fail("a copy was started"))

    assert found.workers == 1
    assert "could gain 5% at most, for another 100 MiB" in found.about_workers[0]


def test_workers_are_added_while_they_gain():
    """Two that take as long as one are worth it; with the third, all would take longer."""
    load = Load(Line(0.01, 0.0))

    def copies(setting, count):
        return side_by_side(0.09 if count == 2 else 0.2)(setting, count)

    found = with_workers(recommended(0.3), 4, load, copies)

    assert found.workers == 2
    assert found.several.rate == pytest.approx(200)
    assert found.several.memory_bytes == 200 * MIB
    assert ["+100%", "keep 2"] == [
        part for part in ("+100%", "keep 2") if part in " ".join(found.about_workers)
    ]


def test_workers_that_break_the_limit_are_not_recommended():
    """Twice the throughput, and more memory than there is."""
    one = replace(recommended(0.3), goal=Goal("memory", memory_bytes=150 * MIB))

    assert with_workers(one, 2, Load(), side_by_side(0.09)).workers == 1


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
    assert update(file, SETTING.keys(7, 1))

    lines = file.read_text().splitlines()
    changed = [line for line in lines if line not in YAML.splitlines()]
    assert [
        "batchSize: 32        # most requests",
        "maxBatchDelay: 7",
        "    preprocess: 2",
        "    inference: 16  # the model's",
        "    postprocess: 32",
        "  parallelism: {preprocess: 2, inference: 1, postprocess: 1}",
    ] == [line for line in changed if not line.startswith(("min", "max")) or "Delay" in line]
    kept = [line for line in YAML.splitlines() if line in lines]
    assert len(kept) == len(YAML.splitlines()) - 5
    assert yaml.safe_load(file.read_text())["micro_batching"]["on_error"] == "isolate"


def test_a_file_that_says_it_already_stays_as_it_is(file):
    """Not even its time changes."""
    update(file, SETTING.keys(7, 1))
    before = file.stat().st_mtime_ns

    assert not update(file, SETTING.keys(7, 1))
    assert before == file.stat().st_mtime_ns


def test_a_file_without_our_section_gets_it(file):
    """One that is empty but for TorchServe's keys, or where `auto` stood, holds the setting."""
    file.write_text("batchSize: 4\nmicro_batching: {micro_batch_size: auto}\n")
    update(file, SETTING.keys(7, 1))

    assert yaml.safe_load(as_yaml(SETTING.keys(7, 1))) == yaml.safe_load(file.read_text())


def test_values_that_would_change_too_are_not_touched(file):
    """An anchor that other keys share: the file stays, and the reader gets the keys to put in."""
    shared = "a: &sizes {preprocess: 1}\nmicro_batching: {micro_batch_size: *sizes}\n"
    file.write_text(shared)

    with pytest.raises(ConfigError, match="by hand:\nminWorkers"):
        update(file, SETTING.keys(7, 1))
    assert shared == file.read_text()
    assert [file] == list(file.parent.iterdir())
