"""--check of a handler that shares its model: both processes are loaded, asked and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from micro_batch_handler.__main__ import main

HANDLER = """
import os
import time

import torch
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.torchserve.sharing import in_host

class Handler(MicroBatchHandler):
    def initialize(self, context):
        self.context = context
        LOAD

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return [[in_host(), 3 * number] for number in batch]

    def postprocess(self, outputs):
        return [[*told, in_host()] for told in outputs]
"""

ARCHIVE = ["archive", "--model-name", "m", "--version", "1", "--force", "-c", "c.yaml"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a sample and the settings."""
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    Path("1.json").write_text('{"number": 14}')
    Path("c.yaml").write_text("batchSize: 8\nmicro_batching: {share_model: true}\n")
    return tmp_path


def check(load):
    """The exit status of a check of a handler that loads like this."""
    Path("handler.py").write_text(HANDLER.replace("LOAD", load))
    status = main([*ARCHIVE, "--handler", "handler.py", "--check", "1.json"])
    assert nothing_is_left()
    return status


def nothing_is_left(folder="t"):
    """Whether no process works below the folder any more, and it is empty."""
    here = str(Path(folder).resolve())
    left = [each for each in psutil.process_iter(["cwd"]) if here in (each.info["cwd"] or "")]
    return not left and not list(Path(folder).iterdir())


def test_both_sides_are_loaded_and_asked(capsys):
    """Inference answers from the process with the model; weights in the worker are warned of."""
    assert check("self.weights = torch.nn.Linear(1000, 1000)") == 0

    told = "".join(capsys.readouterr().out.split("\n"))
    assert "[  true,  42,  false]" in told
    assert "share_model: the process with the model and a worker without it were both" in told
    assert "whole, in micro-batches of 1 and of 2, and regrouped 1/6/2: the same answers" in told
    assert "Handler.initialize has loaded 4 MB of weights into this worker" in told
    assert "has ended" not in told  # one process served all settings


@pytest.mark.parametrize(
    ("load", "side", "says"),
    [
        ("assert not in_host(), 'no weights'", "in the process with the model", "no weights"),
        ("assert in_host(), 'no GPU'", "in a worker, which has no model", "no GPU"),
    ],
)
def test_the_side_that_fails_is_named(load, side, says, capsys):
    """With its traceback."""
    assert check(load) == 1

    first, _, log = capsys.readouterr().err.partition("\n")
    assert f"TorchServe cannot load it {side}" in first
    assert says in first
    assert "in initialize" in log


def test_an_interrupted_check_leaves_nothing():
    """Interrupted while the process with the model loads, which would take an hour more."""
    os.mkfifo("began")
    began = Path("began").resolve()
    # Who opens it to write waits for who reads.
    load = f"in_host() and (open({str(began)!r}, 'w').close(), time.sleep(3600))"
    Path("handler.py").write_text(HANDLER.replace("LOAD", load))
    command = [sys.executable, "-m", "micro_batch_handler", *ARCHIVE, "--handler", "handler.py"]
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # enough for a socket's path
        environment = {**os.environ, "TMPDIR": short, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            [*command, "--check", "1.json"], env=environment, stderr=subprocess.DEVNULL
        ) as process:
            began.read_text()
            process.send_signal(signal.SIGINT)

        assert process.returncode != 0
        assert nothing_is_left(short)
