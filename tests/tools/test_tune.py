"""The tune command, on a handler in this process and in others."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import yaml

from micro_batch_handler.__main__ import main
from micro_batch_handler.config import SECTION, PerStage
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools import tune as command
from micro_batch_handler.tools.tuning import handler_tuning
from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget
from micro_batch_handler.tools.tuning.workers import Job, other_workers
from micro_batch_handler.tools.workbench import flags as workbench_flags
from micro_batch_handler.tools.workbench.model_folder import ModelFiles
from micro_batch_handler.tools.workbench.workbench import Workbench
from micro_batch_handler.tracing.recording import call_s

pytest.importorskip("tqdm")

HANDLER = """
import threading

from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    def initialize(self, context):
        self.context = context
        print("a handler may print")

    def preprocess(self, data):
        return [row["body"]["word"] for row in data]

    def inference(self, batch):
        if "raise" in batch:
            raise ValueError("no such word")
        return [word.upper() for word in batch]

    def postprocess(self, outputs):
        return [{"word": word} for word in outputs]
"""

CONFIG = """\
batchSize: 4  # four
micro_batching:
  micro_batch_size: {preprocess: 1, inference: 2, postprocess: 4}
  parallelism: {preprocess: 2, postprocess: 1}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a handler, its model-config.yaml and two samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("handler.py").write_text(HANDLER)
    Path("model-config.yaml").write_text(CONFIG)
    Path("one.json").write_text('{"word": "one"}')
    Path("two.json").write_text('{"word": "two"}')
    Path("bad.json").write_text('{"word": "raise"}')
    return tmp_path


def tune(*flags, samples=("one.json", "two.json")):
    """The exit status of the command."""
    given = ["handler.py", "--config-file", "model-config.yaml", "--max-batch", "4"]
    return main(["tune", *given, "--seconds", "2", *flags, "--sample", *samples])


@pytest.fixture
def workbench():
    """A workbench with the handler."""
    with Workbench(Path("handler.py"), ModelFiles(config_file="model-config.yaml")) as bench:
        yield bench


def test_a_handler_is_tuned_and_the_file_written(capsys):
    """Figures and a setting are printed; the page, its picture and the yaml are written."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("ruamel.yaml")
    files = ["--page", "page.html", "--write", "model-config.yaml"]
    assert tune("--max-workers", "1", "--p99-ms", "5000", *files) == 0

    told = capsys.readouterr().out
    assert "as it is: 4 in 1/2/4, lanes 2/1/1" in told
    assert "p99 at most 5000 ms" in told
    assert "(--max-workers)" in told
    assert "While a batch runs, the lanes are busy: " in told
    written = yaml.safe_load(Path("model-config.yaml").read_text())
    assert "# four" in Path("model-config.yaml").read_text()
    assert set(written[SECTION]["micro_batch_size"]) == {"preprocess", "inference", "postprocess"}
    assert "intra_op_threads" in written[SECTION]
    assert Path("page.png").read_bytes().startswith(b"\x89PNG")
    page = Path("page.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    assert "4 in 1/2/4, lanes 2/1/1" in page


def test_a_batch_is_told_as_it_went(workbench):
    """Its calls, of the sizes and in the lanes of the setting; samples are taken in turn."""
    runner = HandlerRunner(workbench, [Path("one.json").resolve(), Path("two.json").resolve()])
    trial = runner.run(Setting(4, Plan(1, 2, 4), PerStage(2, 1, 1)))

    (batch,) = trial.batches
    rows = sorted((call.stage, len(call.indices)) for call in batch.traced.calls)
    assert rows == [("inference", 2)] * 2 + [("postprocess", 4)] + [("preprocess", 1)] * 4
    assert (
        0
        < sum(call_s(call) for call in batch.traced.calls if call.stage == "inference")
        < batch.seconds
    )
    assert batch.cpu_s >= 0
    assert len(runner.run(Setting.whole(1)).batches) == 2


def test_the_setting_in_force_is_read(workbench):
    """Sizes and lanes of model-config.yaml."""
    runner = HandlerRunner(workbench, [Path("one.json").resolve()])

    assert runner.given(TimeBudget(1)) == Setting(4, Plan(1, 2, 4), PerStage(2, 1, 1))


def test_the_sizes_of_auto_are_those_that_it_finds():
    """Batches run in the setting that `auto` starts with, until it has settled."""
    Path("model-config.yaml").write_text("batchSize: 4\n")
    files = ModelFiles(config_file="model-config.yaml")
    with Workbench(Path("handler.py"), files) as workbench:
        found = HandlerRunner(workbench, [Path("one.json").resolve()]).given(TimeBudget(1))

    assert found.batch_size == 4
    assert all(1 <= size <= 4 for size in found.plan)


def job(*samples) -> Job:
    """What other workers load."""
    files = ModelFiles(config_file=str(Path("model-config.yaml").resolve()))
    paths = [Path(sample).resolve() for sample in samples]
    return Job(Path("handler.py").resolve(), paths, files)


def test_workers_run_side_by_side(workbench):
    """Another process loads the handler, which may print; its batches count, in each setting."""
    sample = Path("one.json").resolve()
    with other_workers(job("one.json"), 1) as others:
        runner = HandlerRunner(workbench, [sample], others)
        for size in (2, 4):
            setting = Setting(4, Plan(1, size, 4), PerStage(2, 1, 1), workers=2)
            own, *beside = runner.run(setting).batches
            assert beside
            for batch in (own, *beside):
                assert batch.seconds > 0
                calls = [call for call in batch.traced.calls if call.stage == "inference"]
                assert 4 // size == len(calls)
        assert 1 == len(runner.run(Setting.whole(4)).batches)


def test_a_failure_in_another_worker_is_told_and_the_next_setting_runs(workbench):
    """Its requests fail, here they do not; afterwards both run on."""
    with other_workers(job("one.json", "bad.json"), 1) as others:
        runner = HandlerRunner(workbench, [Path("one.json").resolve()], others)
        with pytest.raises(SettingFails, match=r"bad\.json"):
            runner.run(Setting.whole(2, workers=2))
        with pytest.raises(SettingFails, match=r"bad\.json"):
            runner.run(Setting.whole(1, workers=2))
        assert 1 == len(runner.run(Setting.whole(2)).batches)


def test_a_worker_that_cannot_load_is_told_of():
    """With the last lines of what it said."""
    none = Job(Path("none.mar").resolve(), [], ModelFiles())

    with (
        pytest.raises(ArchiveError, match=r"(?s)could not be run.*no such file"),
        other_workers(none, 1),
    ):
        pytest.fail("it has loaded")


@pytest.mark.parametrize(("more", "lanes"), [("", 3), ("  allowed_sizes: [4]\n", 1)])
def test_lanes_of_inference_are_tried_on_the_cpu(more, lanes, monkeypatch, capsys):
    """As many as of the other stages, unless inference belongs to one thread."""
    Path("model-config.yaml").write_text(CONFIG + more)
    tried = []

    def stop(_runner, _given, space, *_):
        tried.append(space.most_lanes)
        raise SettingFails("enough")

    monkeypatch.setattr(handler_tuning, "tune", stop)
    assert tune("--max-lanes", "3", "--max-workers", "1") == 1

    assert "enough" in capsys.readouterr().err
    assert [PerStage(3, lanes, 3)] == tried


def test_the_workers_that_torchserve_would_start_are_measured(monkeypatch, capsys):
    """Two cores and no minWorkers are two workers; three clients fill batches of one in them."""
    monkeypatch.setattr(handler_tuning, "usable_cores", lambda: 2)

    assert tune("--clients", "3", samples=("one.json",)) == 0

    told = capsys.readouterr().out
    assert "as it is: 1 whole, 2 workers" in told
    assert "TorchServe would start 2, one for each core, unless default_workers_per_model" in told
    assert "3 clients do not fill batches of 4 in 2 workers: as it is, 1 come together" in told


@pytest.mark.parametrize(
    ("flags", "samples", "message"),
    [
        ([], ["none.json"], "--sample none.json: there is no such file"),
        ([], ["bad.json"], "bad.json: "),
        (["--page", "none/page.html"], ["one.json"], "there is no such folder"),
        (["--page", "/proc/page.html"], ["one.json"], "--page /proc/page.html cannot be written"),
        (["--write", "/proc/keys.yaml"], ["one.json"], "--write /proc/keys.yaml cannot be written"),
        (["--write", "none.yaml"], ["one.json"], "--write none.yaml: there is no such file"),
    ],
)
def test_what_cannot_work_is_refused(flags, samples, message, capsys):
    """One line with what to change, before any time is spent where that can be known."""
    assert tune("--max-workers", "1", *flags, samples=samples) == 1
    assert message in capsys.readouterr().err


def test_all_that_is_missing_is_named_at_once(monkeypatch, capsys):
    """Also what only other flags need; nothing is said where no flag needs what is missing."""
    gone = {"matplotlib", "ruamel.yaml"}
    monkeypatch.setattr(workbench_flags, "find_spec", lambda name: None if name in gone else name)
    monkeypatch.setattr(command, "tune_handler", lambda _flags: pytest.fail("it has begun"))

    assert tune("--write", "model-config.yaml") == 1
    assert "not installed: matplotlib, ruamel.yaml. " in capsys.readouterr().err
    with pytest.raises(pytest.fail.Exception, match="it has begun"):
        tune()


def test_help_says_what_is_measured(capsys):
    """Without loading TorchServe, whose import takes seconds."""
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert "without TorchServe's frontend" in capsys.readouterr().out


def test_the_log_is_quiet_only_while_it_tunes(monkeypatch):
    """Who calls the command from a program gets its own log back."""
    levels = []

    def tuned(_flags):
        levels.append(logging.getLogger(command.__name__).getEffectiveLevel())
        raise ArchiveError("no")

    monkeypatch.setattr(command, "tune_handler", tuned)
    before = logging.getLogger(command.__name__).getEffectiveLevel()

    assert main(["tune", "handler.py", "--sample", "one.json"]) == 1
    assert levels == [logging.ERROR]
    assert logging.getLogger(command.__name__).getEffectiveLevel() == before
