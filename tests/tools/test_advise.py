"""The advise command: its rules, what it forecasts on machines with known costs, and a real run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.simulated import Machine, linear
from harness.tuned import SimulatedRunner
from micro_batch_handler.__main__ import main
from micro_batch_handler.config import MicroBatchingConfig, PerStage
from micro_batch_handler.tools.advising import next_step as advising
from micro_batch_handler.tools.advising.comparison import Alone
from micro_batch_handler.tools.advising.findings import run
from micro_batch_handler.tools.advising.memory import Memory, machine_bytes
from micro_batch_handler.tools.advising.next_step import next_step
from micro_batch_handler.tools.advising.options import Forecasts, Option, Options
from micro_batch_handler.tools.advising.rules import Verdict, advise
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.search import Search
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget

pytest.importorskip("tqdm")

GIB = 2**30
CORES = 4
FOUR_LANES = PerStage(4, 1, 4)


def options(*, noise=0.0, crowded=None, decoded=None, bound=False, **rates):
    """Options with these requests per second, 100 where none are given."""

    def option(rate, workers):
        return Option(Setting.whole(8, workers), rate, GIB)

    usual = {"now": 1, "changed": 1, "workers": 4, "both": 4, "shared": 8}
    found = {name: option(rates.get(name, 100.0), count) for name, count in usual.items()}
    return Options(
        **found,
        crowded=crowded and option(crowded, 8),
        decoded=decoded and option(decoded, 1),
        frontend_bound=bound,
        noise=noise,
    )


@pytest.mark.parametrize(
    ("given", "verdict", "gain", "workers"),
    [
        ({"changed": 170, "workers": 190, "both": 200}, Verdict.USE, 1.7, 1),
        ({"changed": 130, "workers": 170, "both": 300}, Verdict.USE, 3.0, 4),
        ({"changed": 130, "workers": 170, "both": 190}, Verdict.WORKERS, 1.7, 4),
        ({"changed": 130, "crowded": 400, "shared": 380}, Verdict.SHARE, 3.8, 8),
        ({"changed": 130, "crowded": 400, "shared": 140}, Verdict.USE, 1.3, 1),
        ({"changed": 130, "workers": 370, "shared": 800}, Verdict.WORKERS, 3.7, 4),
        ({"changed": 130, "workers": 190, "decoded": 500}, Verdict.DECODE, 5.0, 1),
        ({"changed": 170, "workers": 190, "decoded": 300}, Verdict.USE, 1.7, 1),
        ({"changed": 105, "workers": 101, "both": 119}, Verdict.USE, 1.19, 4),
        ({"changed": 107, "workers": 95}, Verdict.NOTHING, 1.0, 1),
        ({"changed": 130, "noise": 0.4}, Verdict.NOTHING, 1.0, 1),
        ({"changed": 130, "workers": 190, "bound": True}, Verdict.NOTHING, 1.0, 1),
    ],
)
def test_one_advice_follows_from_the_forecasts(given, verdict, gain, workers):
    """Each rule of the table, and what keeps it from holding."""
    advice = advise(options(**given))

    assert (advice.verdict, advice.option.workers) == (verdict, workers)
    assert advice.gain == pytest.approx(gain)


def forecast(costs, lanes=FOUR_LANES, *, cores=CORES, plain_s=0.0, copies=8, photos=False, **more):
    """The options on a machine with these costs, whose memory has room for so many copies."""
    runner = SimulatedRunner(Machine(costs, cores=cores))
    space = Space(MicroBatchingConfig.from_section({}), [1, 2, 4, 8, 16], lanes, cores)
    budget = TimeBudget(20, now_s=lambda: runner.now_s)
    measured = measure(runner, space, budget, 0.5)
    model = BatchModel(measured, space.size_options(), cores)
    memory = Memory(GIB // 2, GIB, int((copies + 0.5) * GIB / 0.8), **more)
    search = Search(runner, model, Load(clients=64), goals(None, None), budget)
    forecasts = Forecasts(search, memory, Alone(16, plain_s), 16, 1, photos)
    run(search, forecasts.proposals(), Setting.whole(16))
    return forecasts.options()


PREPARING = [linear(0.0, 0.004), linear(0.002, 0.0001), linear(0.0, 0.0001)]
COMPUTING = [linear(0.0, 0.0001), linear(0.001, 0.004), linear(0.0, 0.0001)]
TRIVIAL = [linear(0.0, 0.00001)] * 3
GPU = {"devices": 1, "on_device_bytes": GIB, "device_bytes": 80 * GIB}


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        # Two lanes prepare nearly as much as two workers.
        ({"costs": PREPARING, "cores": 2}, Verdict.USE),
        # JSON takes longer than all stages.
        ({"costs": TRIVIAL, "plain_s": 0.0005}, Verdict.USE),
        ({"costs": TRIVIAL}, Verdict.NOTHING),
        ({"costs": COMPUTING, "copies": 1}, Verdict.NOTHING),
        ({"costs": COMPUTING, "copies": 8}, Verdict.WORKERS),
        # Only one thread at a time may prepare, so more processes must.
        ({"costs": PREPARING, "lanes": ONE_LANE, "copies": 8}, Verdict.WORKERS),
        ({"costs": PREPARING, "lanes": ONE_LANE, "copies": 1}, Verdict.SHARE),
        ({"costs": PREPARING, "copies": 8, "photos": True, **GPU}, Verdict.DECODE),
    ],
)
def test_what_is_measured_leads_to_an_advice(given, verdict):
    """Stages of known costs, measured in simulated time by the tuner's own code and forecast."""
    assert advise(forecast(**given)).verdict == verdict


def test_few_clients_do_not_fill_several_workers():
    """No more workers are advised than clients send."""
    runner = SimulatedRunner(Machine(COMPUTING, cores=CORES))
    space = Space(MicroBatchingConfig.from_section({}), [1, 2], FOUR_LANES, CORES)
    budget = TimeBudget(5, now_s=lambda: runner.now_s)
    measured = measure(runner, space, budget, 0.5)
    model = BatchModel(measured, space.size_options(), CORES)
    memory = Memory(0, GIB, 100 * GIB)

    search = Search(runner, model, Load(clients=1), goals(None, None), budget)
    search.run(Setting.whole(1))
    found = Forecasts(search, memory, Alone(2, 0.0), 2, CORES).options()

    assert {each.workers for each in (found.now, found.workers, found.shared)} == {1}
    assert found.now.setting.batch_size == 1


def test_a_container_has_less_memory_than_its_machine(tmp_path):
    """The limit of its control group counts, of either version; `max` is none."""
    assert machine_bytes(tmp_path) > GIB // 16
    for path, text in (
        ("sys/fs/cgroup/memory.max", "max\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert machine_bytes(tmp_path) == 1048576


PLAIN = """
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return [10 // number for number in batch]

    def postprocess(self, outputs):
        return outputs
"""

OURS = """
from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return outputs
"""

SINGLE = PLAIN.replace("return [row", "(only,) = data\n        return [row")

EXAMPLE = """
    def example_row(self):
        return {"body": {"number": 3}}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with handlers, a model-config.yaml and two samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("handler.py").write_text(PLAIN)
    Path("single.py").write_text(SINGLE)
    Path("ours.py").write_text(OURS)
    Path("example.py").write_text(OURS + EXAMPLE)
    Path("broken.py").write_text("import no_such_thing\n" + PLAIN)
    Path("own.py").write_text(
        PLAIN + "\n    def handle(self, data, context):\n        return self.preprocess(data)\n"
    )
    Path("model-config.yaml").write_text("batchSize: 4\nminWorkers: 1\nmaxWorkers: 1\n")
    Path("good.json").write_text('{"number": 2}')
    Path("bad.json").write_text('{"number": 0}')
    return tmp_path


def advice(capsys, source, *flags):
    """What the command prints as JSON."""
    assert main(["advise", source, "--json", "--seconds", "0.5", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def packed():
    """A .mar of the plain handler."""
    flags = "--model-name numbers --version 1.0 --handler handler.py --export-path ."
    assert main(["archive", *flags.split(), "--config-file", "model-config.yaml"]) == 0
    return Path("numbers.mar")


def test_an_archive_with_a_plain_handler_is_advised_and_left_as_it_is(capsys):
    """One advice with its figures; nothing of the archive or beside it changes."""
    archive = packed()
    before, files = archive.read_bytes(), sorted(Path().iterdir())
    capsys.readouterr()
    found = advice(capsys, str(archive), "--sample", "good.json", "--clients", "8")

    assert found["advice"] in {verdict.value for verdict in Verdict}
    assert found["gain"] > 0
    assert (found["clients"], found["batch_size"]) == (8, 4)
    assert set(found["stages_ms"]) == {"preprocess", "inference", "postprocess"}
    assert found["options"]["TorchServe alone, as it is"]["gain"] == 1
    assert 0 < found["worker_bytes"] < found["machine_bytes"]
    assert any("this machine has no GPU" in note for note in found["notes"])
    assert any("Handler gets micro-batching in front" in note for note in found["notes"])
    assert archive.read_bytes() == before
    assert sorted(Path().iterdir()) == files


def test_the_text_says_one_advice_why_and_what_next(capsys):
    """A handler that micro-batches already is compared with its own class on TorchServe alone."""
    flags = ["--config-file", "model-config.yaml", "--sample", "good.json", "--seconds", "0.5"]
    assert main(["advise", "ours.py", *flags]) == 0

    told = capsys.readouterr().out
    assert "A batch of 4 takes " in told
    assert "this package, one changed line" in told
    assert "\nWhy: " in told
    assert "\nNext: " in told


def test_where_a_handler_that_micro_batches_gains_nothing_a_trace_is_next():
    """It shows why; the files are those that were given."""
    findings = SimpleNamespace(brought=False, clients=4, batch_size=4)
    advice = advise(options(changed=107, workers=95))
    files = {"config_file": "model-config.yaml", "model_file": None, "extra_files": None}
    flags = SimpleNamespace(source="ours.py", sample=[], serialized_file=None, **files)

    told = next_step(findings, advice, flags)

    assert told == "micro-batch-handler trace ours.py --config-file model-config.yaml"


@pytest.mark.parametrize(("devices", "threads"), [(0, True), (2, False)])
def test_plain_workers_on_the_cpu_are_given_threads(devices, threads, monkeypatch):
    """The next step names the variable; on a GPU the cores are not what the workers share."""
    monkeypatch.setattr(advising, "usable_cores", lambda: 8)
    held = SimpleNamespace(devices=devices)
    findings = SimpleNamespace(name="cats", memory=held)
    advice = advise(options(changed=130, workers=170, both=190))

    assert advice.verdict == Verdict.WORKERS
    told = next_step(findings, advice, SimpleNamespace())
    assert threads == ("OMP_NUM_THREADS=2" in told)


def test_an_example_of_the_handler_stands_for_a_sample(capsys):
    """Its `example_row()`; without a batchSize figures are for 32, which a note says."""
    found = advice(capsys, "example.py")

    assert found["batch_size"] == 32
    assert any("all figures are for batchSize 32" in note for note in found["notes"])


def test_a_handler_that_takes_one_row_is_compared_with_one_row(capsys):
    """TorchServe alone fails on its batches, which is no fault of the samples."""
    found = advice(capsys, "single.py", "--sample", "good.json")

    assert "TorchServe alone can only serve this handler one request at a time" in found["notes"]


@pytest.mark.parametrize(
    ("source", "samples", "said"),
    [
        ("ours.py", [], "--sample is missing: give files with the body of one request each"),
        ("handler.py", ["none.json"], "--sample none.json: there is no such file"),
        ("handler.py", ["bad.json"], "bad.json: its answer is 500"),
        ("none.mar", ["good.json"], "none.mar: there is no such file"),
        ("broken.py", ["good.json"], "No module named 'no_such_thing'"),
        ("own.py", ["good.json"], "Change two lines"),
    ],
)
def test_what_cannot_be_advised_says_why(source, samples, said, capsys):
    """One line with what to change."""
    given = ["--sample", *samples] if samples else []

    assert main(["advise", source, "--seconds", "0.5", *given]) == 1
    assert said in capsys.readouterr().err


def test_help_has_an_example(capsys):
    """Of an archive with samples."""
    with pytest.raises(SystemExit):
        main(["advise", "--help"])
    assert "advise model_store/cats.mar --sample photos/*.jpg" in capsys.readouterr().out
