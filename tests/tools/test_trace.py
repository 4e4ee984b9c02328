"""The trace command: from a handler or a worker's file to events, a picture and a page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the extra `tools` is not installed")
pytest.importorskip("tqdm", reason="the extra `tools` is not installed")

from micro_batch_handler.__main__ import main
from micro_batch_handler.tools.workbench import flags as workbench_flags
from micro_batch_handler.tracing.recording import Trace
from micro_batch_handler.tracing.trace_json import from_json, to_json
from tests.tracing.traced import a_row, hosted, scheduled, setup

HANDLER = """
from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    seen = 0

    def initialize(self, context):
        pass

    def handle(self, data, context):
        with open(context.model_yaml_config["handler"]["log"], "a") as log:
            print(len(data), file=log)
        return super().handle(data, context)

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return [1 / number for number in batch]

    def postprocess(self, outputs):
        return outputs
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a handler, its settings and two samples, of which the handler fails on one."""
    section = {"micro_batch_size": 2, "parallelism": {"preprocess": 2}}
    settings = {
        "batchSize": 4,
        "micro_batching": section,
        "handler": {"log": str(tmp_path / "log")},
    }
    (tmp_path / "traced_handler.py").write_text(HANDLER)
    (tmp_path / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    for number in (0, 2):
        (tmp_path / f"{number}.json").write_text(json.dumps({"number": number}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trace(*flags) -> int:
    """Run the command on the handler file; its exit status."""
    return main(["trace", "traced_handler.py", "--config-file", "config.yaml", *map(str, flags)])


def test_batches_are_run_recorded_and_drawn(capsys):
    """After warm-up batches, which are not recorded; the sentence and the files are printed."""
    assert trace("--sample", "2.json", "--batches", 3, "--warm-up", 2, "--output", "out/new") == 0

    lines = capsys.readouterr().out.splitlines()
    found = from_json(Path("out/new/trace.json").read_bytes())
    assert Path("log").read_text().split() == ["4"] * 5
    assert [batch.rows for batch in found.batches] == [4] * 3
    assert (found.setup.model, found.setup.lanes.preprocess) == ("traced_handler", 2)
    page = html.unescape(Path("out/new/trace.html").read_text())
    assert lines[0] in re.sub("</?strong>", "", page).replace("\N{NO-BREAK SPACE}", " ")
    assert lines[1:] == [f"out/new/trace.{kind}" for kind in ("json", "png", "html")]
    assert all(Path(line).stat().st_size for line in lines[1:])


def test_the_batch_size_can_be_another():
    """And the files go to ./trace."""
    assert trace("--sample", "2.json", "--batches", 1, "--warm-up", 0, "--batch-size", 6) == 0

    assert Path("log").read_text().split() == ["6"]
    assert Path("trace/trace.png").exists()


def test_the_file_of_a_worker_is_drawn(capsys):
    """The same diagnosis, without running anything."""
    batch = scheduled(8, (1, 1, 1), [a_row(0.01), a_row(0.002), a_row(0.001)])
    Path("worker.json").write_text(to_json(Trace(setup(), [batch])))

    assert main(["trace", "worker.json"]) == 0

    said = capsys.readouterr().out
    assert "preprocess is the bottleneck: its 1 lane was busy 96 % of the batch" in said
    assert "Add preprocess lanes" in said
    assert Path("trace/trace.html").exists()


def test_files_of_several_workers_are_drawn_together(capsys):
    """Workers of one model, around its host."""
    for name, began_s in (("a", 100.0), ("b", 100.5)):
        one = Trace(setup((1, 4, 1)), [hosted(began_s=began_s, others=4)])
        Path(f"{name}.json").write_text(to_json(one))

    assert main(["trace", "a.json", "b.json", "--output", "both"]) == 0

    page = Path("both/trace.html").read_text()
    assert "1: preprocess-0" in page
    assert "2: preprocess-0" in page
    assert page.count("model host: inference") == 1
    assert main(["trace", "both/trace.json"]) == 1
    assert "give the files that they wrote" in capsys.readouterr().err


def test_files_that_do_not_belong_together_are_refused(capsys):
    """Another model, older files without a clock, and files beside a handler."""
    batch = hosted()
    Path("a.json").write_text(to_json(Trace(setup((1, 4, 1)), [batch])))
    Path("other.json").write_text(to_json(Trace(setup((2, 4, 1)), [batch])))
    Path("old.json").write_text(to_json(Trace(setup((1, 4, 1)), [batch], None)))

    assert main(["trace", "a.json", "other.json"]) == 1
    assert "other.json is of another model or other settings" in capsys.readouterr().err
    assert main(["trace", "a.json", "old.json"]) == 1
    assert "it can only stand alone" in capsys.readouterr().err
    assert main(["trace", "traced_handler.py", "a.json"]) == 1
    assert "there can be only one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--sample is missing"),
        (["--sample", "0.json"], "0.json: its answer is 500 .*ZeroDivisionError: division by zero"),
        (["--sample", "none.json"], "sample cannot be read: .*none.json"),
        (["--sample", "0.json", "--output", "config.yaml/x"], "--output config.yaml/x cannot be"),
        (
            ["--sample", "0.json", "--output", "/proc/new/x"],
            "/proc/new/x cannot be written: /proc",
        ),
    ],
)
def test_what_cannot_be_traced_says_why(flags, said, capsys):
    """One line, with what to change; an answer that is an error with its body."""
    assert trace(*flags) == 1

    message = capsys.readouterr().err
    assert message.startswith("micro-batch-handler trace: error: ")
    assert re.search(said, message)
    assert not Path("trace").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("{}", "other.json: this is no trace of this package")],
)
def test_a_file_that_is_no_trace_is_refused(content, said, capsys):
    """It is named."""
    if content is not None:
        Path("other.json").write_text(content)

    assert main(["trace", "other.json"]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--batches", "0"), ("--warm-up", "-1")])
def test_numbers_that_make_no_sense_are_refused(flag, value, capsys):
    """With the rule and the value."""
    with pytest.raises(SystemExit):
        trace(f"{flag}={value}")
    assert f"found '{value}'" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    """Before anything is loaded."""
    monkeypatch.setattr(workbench_flags, "find_spec", lambda _name: None)

    assert trace("--sample", "2.json") == 1
    said = capsys.readouterr().err
    assert "not installed: matplotlib, ruamel.yaml, tqdm. " in said
    assert said.endswith("pip install '.[tools]'\n")
    assert not Path("log").exists()


def test_the_help_says_how_to_read_it(capsys):
    """With examples."""
    with pytest.raises(SystemExit):
        main(["trace", "--help"])
    said = capsys.readouterr().out
    assert "examples:" in said
    assert "How to read it" in said
