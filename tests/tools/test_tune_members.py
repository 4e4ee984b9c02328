"""The tune command with workers around one model, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml

from micro_batch_handler.__main__ import main
from micro_batch_handler.config import SECTION
from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
from micro_batch_handler.tools.tuning.handler_tuning import Counts
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.workers import Job, other_workers
from micro_batch_handler.tools.tuning.yaml_file import update
from micro_batch_handler.tools.workbench.model_folder import ModelFiles, set_share_model
from micro_batch_handler.tools.workbench.workbench import Workbench

pytest.importorskip("tqdm")

HANDLER = """
import os

from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    def initialize(self, context):
        self.context = context
        print("a handler may print")

    def preprocess(self, data):
        self.note("preprocess")
        return [1 for _ in data]

    def inference(self, batch):
        self.note("inference")
        return batch

    def postprocess(self, outputs):
        return outputs

    def note(self, stage):
        with open(f"FOLDER/{stage}", "a") as file:
            file.write(f"{os.getpid()}\\n")
"""

CONFIG = "batchSize: 4  # four\nmicro_batching: {share_model: true}  # one copy\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a handler, its settings and a sample."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("handler.py").write_text(HANDLER.replace("FOLDER", str(tmp_path)))
    Path("model-config.yaml").write_text(CONFIG)
    Path("one.json").write_text("1")
    return tmp_path


def pids(stage):
    """The processes in which a stage ran."""
    return {int(line) for line in Path(stage).read_text().split()}


def test_workers_ask_one_process_in_all_settings(monkeypatch):
    """This one and another; their memory is measured, and that of the process with the model."""
    files = ModelFiles(config_file="model-config.yaml")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    before = dict(os.environ)
    with Workbench(Path("handler.py"), files) as workbench:
        job = Job(workbench.folder, [Path("one.json").resolve()], in_place=True)
        with other_workers(job, 1, shares=True, environment=before) as others:
            runner = HandlerRunner(workbench, job.samples, others)
            for rows in (2, 4):
                batches = runner.run(
                    Setting(rows, Setting.whole(rows).plan, workers=2, shares=True)
                )
                assert len(batches.batches) > 1
                assert all(batch.host_bytes for batch in batches.batches)

            assert {workbench.host} == pids("inference")
            assert 2 == len(pids("preprocess"))
            assert workbench.host not in pids("preprocess")
            psutil.Process(workbench.host).kill()
    assert before == dict(os.environ)


def test_the_process_with_the_model_ends_with_a_tool_that_is_killed(place):
    """Neither it nor other workers are left, whatever they do just then."""
    os.mkfifo("inference")
    command = [sys.executable, "-m", "micro_batch_handler", "tune", "handler.py"]
    flags = ["--config-file", "model-config.yaml", "--sample", "one.json", "--max-members", "1"]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # enough for a socket's path
        environment = {**os.environ, "TMPDIR": short, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (
            subprocess.Popen(
                [*command, *flags, "--max-workers", "1"], env=environment, stderr=subprocess.DEVNULL
            ) as process,
            Path("inference").open() as told,
        ):
            host = psutil.Process(int(told.readline()))
            others = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGKILL)

        assert len({host, *others}) >= 2  # the other loads the model a second time
        gone, left = psutil.wait_procs([host, *others], timeout=30)
        assert not left, gone
        assert not list(Path(short).glob("mbh-*"))


def test_both_kinds_are_tuned_and_the_file_keeps_its_comments(capsys):
    """A file without share_model: workers with and without a model of their own are compared."""
    pytest.importorskip("ruamel.yaml")
    Path("model-config.yaml").write_text(CONFIG.replace("true", "false"))
    given = ["handler.py", "--config-file", "model-config.yaml", "--sample", "one.json"]
    flags = ["--max-batch", "4", "--seconds", "4", "--max-workers", "1", "--max-members", "1"]

    assert main(["tune", *given, *flags, "--write", "model-config.yaml"]) == 0

    told = capsys.readouterr().out
    assert "Of workers around one model (share_model): 1: " in told
    assert "One copy of the model for all workers means " in told
    assert "a handler may print" not in told
    text = Path("model-config.yaml").read_text()
    assert "# four" in text
    assert "# one copy" in text


def test_a_handler_that_cannot_share_is_tuned_without(capsys):
    """What keeps it from sharing is told."""
    text = Path("handler.py").read_text()
    text = text.replace("return [1 for", "self.rows = len(data)\n        return [1 for")
    Path("handler.py").write_text(text.replace("return batch", "return [self.rows for _ in batch]"))
    Path("model-config.yaml").write_text("batchSize: 2\n")
    given = ["handler.py", "--config-file", "model-config.yaml", "--sample", "one.json"]

    assert main(["tune", *given, "--seconds", "1", "--max-workers", "1", "--max-members", "2"]) == 0

    told = capsys.readouterr().out
    assert "workers around one model could not be tried: Handler: self.rows, stored in" in told
    assert "around one model (share_model)" not in told


@pytest.mark.parametrize(
    ("max_workers", "max_members", "shares", "counts"),
    [
        (None, None, False, (4, 4)),
        (None, None, True, (1, 4)),
        (1, None, False, (1, 0)),
        (2, None, False, (2, 4)),
        (2, 3, True, (2, 3)),
        (None, 0, False, (4, 0)),
        (None, 0, True, (1, 1)),
    ],
)
def test_how_many_workers_are_tried(max_workers, max_members, shares, counts):
    """As many as usual of both kinds; a model that the file shares is loaded once more only."""
    flags = SimpleNamespace(max_workers=max_workers, max_members=max_members)

    assert counts == tuple(Counts.of(flags, 4, shares=shares))


def test_a_folder_can_be_told_to_share(place):
    """Its settings stay, those of the folder that it is linked from too; one without gets them."""
    (place / "MAR-INF").mkdir()
    manifest = place / "MAR-INF" / "MANIFEST.json"
    manifest.write_text('{"model": {"handler": "handler.py"}}')
    os.link("model-config.yaml", "linked.yaml")

    set_share_model(place, shares=False)

    assert '"configFile": "model-config.yaml"' in manifest.read_text()
    found = yaml.safe_load(Path("model-config.yaml").read_text())
    assert {"batchSize": 4, SECTION: {"share_model": False}} == found
    assert CONFIG == Path("linked.yaml").read_text()


def test_share_model_is_written_and_comments_stay():
    """In a section that is there, with the number of members."""
    pytest.importorskip("ruamel.yaml")
    file = Path("model-config.yaml")
    file.write_text("micro_batching:\n  share_model: false  # too large for two\n")

    update(file, replace(Setting.whole(8, workers=3), shares=True).keys(5))

    assert "share_model: true   # too large for two" in file.read_text()
    found = yaml.safe_load(file.read_text())
    assert (3, 3) == (found["minWorkers"], found["maxWorkers"])
