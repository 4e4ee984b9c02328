"""The workbench: a handler loaded in this process, its batches run and watched."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest
import torch

from micro_batch_handler.__main__ import main
from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError, ConfigError
from micro_batch_handler.tools.checking.worker import DECODES
from micro_batch_handler.tools.workbench.model_folder import ModelFiles
from micro_batch_handler.tools.workbench.workbench import Workbench

HANDLER = """
from pathlib import Path

import torch

import words
from micro_batch_handler import MicroBatchHandler

class Handler(MicroBatchHandler):
    def initialize(self, context):
        self.context = context
        self.beside = Path("words.py").exists()
        words.loads.append(1)

    def preprocess(self, data):
        return [row["body"]["word"] for row in data]

    def inference(self, batch):
        return [words.answer(word) for word in batch]

    def postprocess(self, outputs):
        here = torch.get_num_threads()
        told = {"beside": self.beside, "threads": here, "loads": len(words.loads)}
        return [{"word": word, **told} for word in outputs]
"""

WORDS = """
loads = []

def answer(word):
    if word == "raise":
        raise ValueError("no such word")
    return word.upper()
"""

CONFIG = """
batchSize: 4
micro_batching: {micro_batch_size: 1, parallelism: {preprocess: 2}}
"""

FILES = ModelFiles(config_file="model-config.yaml", extra_files="words.py")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a handler, what it needs, and two samples."""
    (tmp_path / "word_handler.py").write_text(HANDLER)
    (tmp_path / "words.py").write_text(WORDS)
    (tmp_path / "model-config.yaml").write_text(CONFIG)
    for word in ("yes", "no", "raise"):
        (tmp_path / f"{word}.json").write_text(json.dumps({"word": word}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def packed(style: str) -> Path:
    """An archive with the handler."""
    Path("out").mkdir()
    flags = (
        "archive --model-name m --version 1.0 --handler word_handler.py --export-path out "
        f"--config-file model-config.yaml --extra-files words.py --archive-format {style}"
    )
    assert main(flags.split()) == 0
    return next(Path("out").iterdir())


def answers(ran) -> list:
    """The words that came back."""
    return [json.loads(answer.body)["word"] for answer in ran.answers]


@pytest.mark.parametrize("style", ["default", "tgz", "no-archive"])
def test_an_archive_of_any_format_answers_through_its_engine(style):
    """Samples are taken in turn; the record of the batch has every call; nothing stays behind."""
    path, before, threads = list(sys.path), Path.cwd(), torch.get_num_threads()
    logs = list(logging.getLogger().handlers)
    with Workbench(packed(style)) as bench:
        ran = bench.run([Path("yes.json"), Path("no.json")], rows=3)

        assert Path.cwd() == before
        assert bench.batch_size == 4
    bench.close()

    assert answers(ran) == ["YES", "NO", "YES"]
    assert json.loads(ran.answers[0].body)["beside"]
    assert not ran.failures
    [record] = ran.records
    assert record.rows == 3
    assert [sum(c.stage == stage for c in record.outcomes.calls) for stage in STAGES] == [3, 3, 3]
    assert (sys.path, torch.get_num_threads()) == (path, threads)
    assert not {"word_handler", "words"} & set(sys.modules)
    assert logging.getLogger().handlers == logs


def test_a_handler_file_is_served_with_its_files():
    """The files that the archive command would pack are loaded without packing them."""
    with Workbench(Path("word_handler.py"), FILES) as bench:
        assert answers(bench.run([Path("yes.json")])) == ["YES"]
        assert bench.config.parallelism.preprocess == 2


def test_bodies_are_decoded_in_the_lanes_and_so_are_part_of_preprocess():
    """JSON reaches the engine as bytes, as with config.properties; a broken body is a 400."""
    Path("broken.json").write_text("{")
    before = os.environ.get(DECODES)
    with Workbench(Path("word_handler.py"), FILES) as bench:
        ran = bench.run([Path("yes.json"), Path("broken.json")])

    assert [answer.status for answer in ran.answers] == [200, 400]
    assert [call.stage for call in ran.records[0].outcomes.calls] == list(STAGES)
    assert os.environ.get(DECODES) == before


def test_settings_change_without_loading_the_model_again():
    """Keys replace the archive's, only for as long as they are given."""
    with Workbench(Path("word_handler.py"), FILES, batch_size=8) as bench:
        assert (bench.batch_size, bench.config.micro_batch_size.inference) == (8, 1)

        bench.configure(micro_batching={"micro_batch_size": 2, "intra_op_threads": 1})
        ran = bench.run([Path("yes.json")], rows=4)
        calls = ran.records[0].outcomes.calls

        assert (bench.batch_size, bench.config.parallelism.preprocess) == (4, 2)
        assert [len(c.indices) for c in calls] == [2] * 6
        assert json.loads(ran.answers[0].body)["threads"] == 1
        assert json.loads(ran.answers[0].body)["loads"] == 1

        threads = {"preprocess": 3, "inference": 1, "postprocess": 2}
        for size, seen in ((2, 2), (8, 3)):
            bench.configure(micro_batching={"micro_batch_size": size, "intra_op_threads": threads})
            answer = bench.run([Path("yes.json")], rows=4).answers[0]
            assert json.loads(answer.body)["threads"] == seen
        bench.configure(
            micro_batching={"micro_batch_size": 8, "intra_op_threads": {"inference": 2}}
        )
        answer = bench.run([Path("yes.json")], rows=4).answers[0]
        assert json.loads(answer.body)["threads"] == 2

        bench.configure()
        assert len(bench.run([Path("yes.json")], rows=4).records[0].outcomes.calls) == 12
        with pytest.raises(ConfigError, match="micro_batch_size must be"):
            bench.configure(micro_batching={"micro_batch_size": 0})
        assert answers(bench.run([Path("yes.json")])) == ["YES"]


def test_the_class_beside_the_mixin_answers_as_on_torchserve_alone():
    """With the same answers and no engine: no batch is recorded, and one bad body fails all."""
    samples = [Path("yes.json"), Path("no.json")]
    with Workbench(Path("word_handler.py"), FILES) as bench:
        plain = bench.run(samples, plainly=True)
        beside_bad = bench.run([*samples, Path("raise.json")], plainly=True)
        ours = bench.run(samples)

    assert answers(plain) == answers(ours) == ["YES", "NO"]
    assert (len(plain.records), len(ours.records)) == (0, 1)
    assert [answer.status for answer in plain.answers] == [200, 200]
    assert len(beside_bad.failures) == 3


@pytest.mark.parametrize(
    "key", ["trace: {{file: {}, batches: 1}}", "trace_file: {}, trace_batches: 1"]
)
def test_a_trace_that_a_worker_is_to_write_is_left_to_it(place, key):
    """The file that the archive's own `trace` asks for is not written from here."""
    path = place / "worker.json"
    section = f"micro_batching: {{micro_batch_size: 1, {key.format(path)}}}"
    Path("model-config.yaml").write_text(section)
    with Workbench(Path("word_handler.py"), FILES) as bench:
        assert answers(bench.run([Path("yes.json")])) == ["YES"]

    assert not path.exists()


def test_a_bad_answer_is_reported_with_its_sample_its_body_and_what_was_raised():
    """The other requests of its batch are answered."""
    with Workbench(Path("word_handler.py"), FILES) as bench:
        ran = bench.run([Path("yes.json"), Path("raise.json")])

    assert [answer.status for answer in ran.answers] == [200, 500]
    assert list(ran.failures) == [1]
    assert "raise.json: its answer is 500" in ran.failures[1]
    assert "inference failed" in ran.failures[1]
    assert ran.failures[1].endswith("(ValueError: no such word)")


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("none.mar", None, "there is no such file"),
        ("notes.txt", "", "neither an archive"),
        ("folder.mar", "no zip", "cannot be unpacked"),
        (".", None, "is no archive"),
        ("plain.py", "from ts.torch_handler.base_handler import BaseHandler\n\n"
         "class H(BaseHandler):\n    def initialize(self, context):\n        pass\n",
         "does not micro-batch"),
        ("broken.py", "import no_such_thing\nclass H:\n    initialize = handle = None\n",
         "ModuleNotFoundError: No module named 'no_such_thing'"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why(source, code, said):
    """The message names the reason, and the import path is as it was."""
    if code is not None:
        Path(source).write_text(code)
    before = list(sys.path)

    with pytest.raises(ArchiveError, match=said):
        Workbench(Path(source))
    assert sys.path == before


def test_files_beside_an_archive_are_refused():
    """An archive has its own files; others would be ignored without a word."""
    with pytest.raises(ArchiveError, match="has its own files"):
        Workbench(packed("default"), FILES)


def test_a_sample_that_is_missing_is_an_error():
    """The message names the sample."""
    bench = Workbench(Path("word_handler.py"), FILES)
    with bench, pytest.raises(ArchiveError, match=r"sample cannot be read: .*missing\.json"):
        bench.run([Path("missing.json")])
