"""Workers that share a model with a real process: answers, errors and loads are as without it."""

from __future__ import annotations

import os
import signal
import warnings

import pytest
import torch
from ts.context import Context

from harness.wait import until
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import MicroBatchingConfig
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.hosting.meeting_place import MeetingPlace
from micro_batch_handler.torchserve import placeholder
from micro_batch_handler.torchserve.member import Member
from micro_batch_handler.torchserve.placeholder import GPUS, ModelElsewhere
from tests.fakes import fake_context
from tests.torchserve.host.shared_handlers import Compiled, FailsToLoad, Heavy, Loaded, Odd

ALONE = {"micro_batching": {"share_model": False}}


def answers_and_responses(member, bodies, headers=None):
    answers, context = member.ask(*bodies, headers=headers)
    indices = range(len(bodies))
    return (
        answers,
        [context.get_response_status(index) for index in indices],
        [context.get_response_headers(index) for index in indices],
    )


def test_answers_statuses_and_errors_are_as_without_sharing(shared, caplog):
    """Of good requests and of those that fail, whatever else is in their batch."""
    one = shared(Odd()).load()
    handler = Odd()
    alone = shared(handler, **ALONE).load()
    batches = [
        ["a", "b", "c"],
        ["id", "status 201", "plain", "id", "status 404"],
        ["a", "error KeyError", "b", "error MemoryError", "old", "error Exit", "c"],
        ["error KeyError"],
    ]

    for _ in range(2):
        for bodies in batches:
            headers = [{"x-sent": f"sent {at}"} for at in range(len(bodies))]
            found = answers_and_responses(one, bodies, headers)
            assert found == answers_and_responses(alone, bodies, headers)
    assert one.handler.factor is None  # the model was in the other process
    assert "in the process with the model:" in caplog.text

    # A host that ends: its request gets 507, and the others are answered by the next hosts.
    answers, statuses, _ = answers_and_responses(one, ["a", "end", "b"])
    assert [answers[0], answers[2]] == ["aa", "bb"]
    assert answers[1]["type"] == "HostLost"
    assert [status[0] for status in statuses] == [200, 507, 200]
    assert one.handler._micro_batch_member.link.restarts >= 1

    # One that is killed between batches is replaced, and nobody notices.
    os.kill(one.handler._micro_batch_member.link.ready.pid, signal.SIGKILL)
    assert one.ask("a")[0] == ["aa"]

    # With `on_error: fail_batch` the error of the stage is TorchServe's to map.
    strict = shared(Odd(), micro_batching={"on_error": "fail_batch"}).load()
    with pytest.raises(MemoryError):
        strict.ask("a", "error MemoryError")


def test_the_model_is_compiled_by_the_host_alone(shared, capfd):
    """`pt2` compiles it there beside the first answers, once for all workers."""
    pt2 = {"compile": {"enable": True, "mode": "reduce-overhead", "backend": "eager"}}
    members = [shared(Compiled(), pt2=pt2, batchSize=4).load() for _ in range(2)]

    def answers():
        return [member.ask(*range(number))[0] for member in members for number in (1, 2, 3, 4)]

    expected = 2 * [[3.0 * body for body in range(number)] for number in (1, 2, 3, 4)]
    assert answers() == expected
    said = []

    def compiled():
        said.append(capfd.readouterr().out)
        return "inference is compiled for 1, 2, 4 rows" in "".join(said)

    until(compiled, "a compiled model", 60)
    assert answers() == expected
    assert "called uncompiled" not in capfd.readouterr().out


class Triple(torch.nn.Module):
    def forward(self, x):
        return 3 * x


def test_base_handlers_model_is_loaded_by_the_host_alone(shared, tmp_path, monkeypatch):
    """The worker has a placeholder and no weights, and answers are the model's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Triple()).save(str(tmp_path / "model.pt"))
    one = shared(Loaded())
    real = Context.__init__

    def with_files(self, name, model_dir, manifest, *rest, **more):
        manifest = {"model": {"serializedFile": "model.pt"}}
        real(self, name, str(tmp_path), manifest, *rest, **more)

    monkeypatch.setattr(Context, "__init__", with_files)
    one.load()

    assert isinstance(one.handler.model, ModelElsewhere)
    assert one.ask(1, 2, 3)[0] == [3.0, 6.0, 9.0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MemoryError", MemoryError),
        ("Exit", ConfigError),
    ],
)
def test_a_load_that_fails_in_the_host_is_the_workers(shared, name, kind):
    """Its type is one that TorchServe answers, and the traceback in the host is with it."""
    with pytest.raises(kind, match="no weights") as raised:
        shared(FailsToLoad(), error=name).load()

    error = raised.value
    assert type(error) is kind
    host_error = error.__cause__ if kind is ConfigError else error
    assert "in load" in str(host_error.__cause__)


def test_weights_that_a_worker_loads_too_are_told_once(shared, caplog):
    """With their size, and the hook that avoids them."""
    shared(Heavy()).load()

    (record,) = (each for each in caplog.records if "of weights into this worker" in each.message)
    assert "has loaded 4 MB" in record.message
    assert "Override initialize_member(context)" in record.message


def test_a_class_that_cannot_be_imported_is_refused(shared):
    """The message says where the class has to stand."""

    class Inside(MicroBatchHandler):
        def initialize(self, context):
            self.initialized = True

    with pytest.raises(ConfigError, match=r"class at the top of its file.*Inside is none"):
        shared(Inside()).load()


def test_a_worker_that_fails_by_itself_leaves_the_host(shared, monkeypatch):
    """Its own error comes out, with a type that TorchServe answers."""

    def fails(self, context):
        raise FileNotFoundError(2, "no words", "words.txt")

    monkeypatch.setattr(Odd, "initialize_member", fails)
    handler = Odd()

    with pytest.raises(ConfigError, match=r"FileNotFoundError.*words.txt"):
        shared(handler).load()

    assert handler._micro_batch_member.link.connections.closed


@pytest.mark.parametrize("gpus", ["3", "", None])
def test_every_host_finds_the_gpus_that_a_worker_hides_from_itself(gpus, monkeypatch):
    """Also one that is started when the handler is initialized again; and none if it has none."""
    found: list = []

    def start_host(self, command, job, environment):
        found.append(environment.get(GPUS))

    monkeypatch.setattr(MeetingPlace, "start_host", start_host)
    monkeypatch.setattr(placeholder, "_given", [])
    monkeypatch.setattr("torch.cuda.is_available", torch.cuda.is_available)  # is put back
    monkeypatch.setenv(GPUS, gpus or "")
    if gpus is None:
        monkeypatch.delenv(GPUS)
    context = fake_context(1)
    config = MicroBatchingConfig(share_model=True)
    for _ in range(3):
        Member(Odd(), context, config).close()
        placeholder.hide_gpus()

    assert found == [gpus] * 3
