"""What cannot work with `share_model` is refused when the model loads, and says what to change."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace

import pytest
import yaml

from harness.alone import folder_of
from harness.kinds import KINDS
from harness.processes import kill
from harness.service import FakeMetrics, predict, service_of
from harness.sharing import hosts_of_this_process
from harness.wire import Request
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.tools.checking.worker import load
from micro_batch_handler.tools.packing.front import front_of
from micro_batch_handler.tools.packing.handler_class import read_handler
from micro_batch_handler.tools.workbench.model_folder import importable, working_in

pytestmark = pytest.mark.usefixtures("as_before")

BOTH = ("preprocess", "inference")


def load_kind(name, tmp_path, **section):
    """Load a handler of harness/handlers/kinds with `share_model`, as a packed archive does."""
    (kind,) = (each for each in KINDS if each.name == name)
    front = front_of(read_handler(str(kind.file)))
    kind = replace(kind, section={"share_model": True, **section})
    folder = folder_of(kind, tmp_path / "model", front.name)
    (folder / front.name).write_text(front.text, encoding="utf-8")
    with importable(folder), working_in(folder):
        load(folder)


@pytest.mark.parametrize(
    ("name", "hosted", "message"),
    [
        ("state_lengths", None, r"self.prompt_lengths, stored in preprocess .* read in inference"),
        ("state_list", BOTH, r"self.is_dogs, stored in preprocess .* read in postprocess"),
        ("state_global", BOTH, r"LANGUAGES, stored in preprocess .* read in postprocess"),
        ("state_lengths", BOTH, r"calls them at the same time, for different requests"),
        ("shape_generator", None, r"SoundHandler.preprocess returns a generator.* Return a list"),
        ("stream_words", None, r"StreamHandler.inference sends parts of its answers \(line 16\)"),
        ("handle_bare", None, r"ModelHandler.handle answers requests by itself"),
    ],
)
def test_a_handler_that_cannot_share_is_refused(name, hosted, message, tmp_path):
    """State between two processes, generators, parts of answers, and handlers without stages."""
    section = {"hosted_stages": list(hosted)} if hosted else {}

    with pytest.raises(ConfigError, match=message) as refused:
        load_kind(name, tmp_path, **section)

    assert "share_model" in str(refused.value)


class Buffer(MicroBatchHandler):
    """Computes into a tensor that it keeps."""

    def inference(self, batch):
        self.out[: len(batch)] = batch
        return self.out[: len(batch)]


class Lazy(MicroBatchHandler):
    """Loads in preprocess what inference needs."""

    def preprocess(self, data):
        if self.words is None:
            self.words = {}
        return data

    def inference(self, batch):
        return [self.words.get(each) for each in batch]


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (Buffer, r"self.out, written in place in inference .* Return a copy"),
        (Lazy, r"self.words, stored in preprocess .* load what is the same .* in initialize"),
    ],
)
def test_what_a_class_keeps_is_refused(handler, message):
    """A buffer of a hosted stage, and what another process loads at its first request."""
    with pytest.raises(ConfigError, match=message):
        service_of(handler(), {"micro_batching": {"share_model": True}}, FakeMetrics())


class Padded(MicroBatchHandler):
    """Joins what preprocess returns by itself."""

    def join_payloads(self, payloads):
        return payloads[0]


def test_hooks_for_what_workers_do_not_see_are_refused():
    """With both stages hosted, a worker has requests where the hook expects payloads."""
    with pytest.raises(ConfigError, match=r"Padded has join_payloads .* hosted_stages to \[infer"):
        service_of(
            Padded(),
            {"micro_batching": {"share_model": True, "hosted_stages": list(BOTH)}},
            FakeMetrics(),
        )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"device": {"pinned_bytes": 1000}}, r"pinned_bytes must be at least \d+ with share_model"),
        ({"hosted_stages": ["postprocess"]}, r"hosted_stages must be .*, found \['postprocess'\]"),
        ({"hosted_stages": "inference"}, r"hosted_stages must be .*, found 'inference'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(section, message):
    """Memory that is too small, and stages that cannot be hosted."""
    with pytest.raises(ConfigError, match=message):
        service_of(
            MicroBatchHandler(), {"micro_batching": {"share_model": True, **section}}, FakeMetrics()
        )


def test_a_temporary_folder_with_a_long_path_is_refused(tmp_path, monkeypatch):
    """A Unix socket has at most some hundred characters."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    with pytest.raises(ConfigError, match=r"at most. Set TMPDIR to a shorter path"):
        service_of(MicroBatchHandler(), {"micro_batching": {"share_model": True}}, FakeMetrics())


CHANGING = """
from micro_batch_handler import MicroBatchHandler


class Changing(MicroBatchHandler):
    def initialize(self, context):
        self.last = 0
        self.initialized = True

    def preprocess(self, data):
        return [int(row["body"]) for row in data]

    def inference(self, batch):
        for name in ("la" + "st",):
            setattr(self, name, batch[-1])
        return batch

    def postprocess(self, outputs):
        return [self.last for _ in outputs]
"""


@pytest.mark.usefixtures("short_temporary_folder")
def test_a_hosted_stage_that_changes_the_handler_answers_with_an_error(tmp_path, caplog):
    """What reading the class does not show is seen in the host, and no answer is wrong."""
    name = f"changing_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CHANGING, encoding="utf-8")
    (tmp_path / "model-config.yaml").write_text(yaml.safe_dump({}), encoding="utf-8")
    with importable(tmp_path), working_in(tmp_path), caplog.at_level(logging.ERROR):
        handler = __import__(name).Changing()
        service = service_of(
            handler, {"micro_batching": {"share_model": True}}, FakeMetrics(), batch_size=4
        )
        try:
            _, _, answers = predict(service, [Request(str(n), str(n).encode()) for n in (1, 2, 3)])
        finally:
            handler.close()
            kill(hosts_of_this_process())

    assert [answer.code for answer in answers] == [500] * 3
    assert "ConfigError: inference changes self.last in the process with the model" in caplog.text
