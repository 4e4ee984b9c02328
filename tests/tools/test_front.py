"""Handlers that do not micro-batch get a front that does, or are refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler.__main__ import main
from micro_batch_handler.errors import ArchiveError, ConfigError
from micro_batch_handler.tools.packing.front import front_of
from micro_batch_handler.tools.packing.handler_class import read_handler
from micro_batch_handler.torchserve.brought import BroughtClass, BroughtFunction
from tests.fakes import Plain, fake_context
from tests.tools.archives import entries, handler_of

STAGES = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.device = torch.device("cpu")
        self.model = lambda batch: batch * 3

    def preprocess(self, data):
        return torch.tensor([row["body"]["number"] for row in data])
"""

FUNCTION = """
loaded = []

def handle(data, context):
    if data is None:
        loaded.append(context.model_name)
        return None
    return [{"number": 3 * row["body"]["number"], "loaded": loaded} for row in data]
"""

ONLY_HANDLE = """
class Handler:
    def initialize(self, context):
        self.loaded = context.model_name

    def handle(self, data, context):
        return [self.answer(row["body"]["number"]) for row in data]

    def answer(self, number):
        return {"number": 3 * number, "loaded": [self.loaded]}
"""

OWN_HANDLE = """
class Handler(BaseHandler):
    def handle(self, data, context):
        return self.postprocess(self.preprocess(data))
"""

STOCK = """
class Handler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a handler of each kind."""
    (tmp_path / "temp").mkdir()
    (tmp_path / "stages.py").write_text(STAGES)
    (tmp_path / "function.py").write_text(FUNCTION)
    (tmp_path / "only_handle.py").write_text(ONLY_HANDLE)
    (tmp_path / "sample.json").write_text('{"number": 14}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return tmp_path


def pack(handler, *flags, name="m"):
    common = ["--model-name", name, "--version", "1.0", "--force", "--handler", handler]
    return main(["archive", *common, *flags])


# At packing time


@pytest.mark.parametrize("handler", ["stages", "function", "only_handle"])
def test_a_handler_is_packed_with_a_front_and_answers(handler, capsys):
    """The archive holds the user's file as it is, and the front of it answers."""
    assert pack(f"{handler}.py", "--micro-batch", "--check", "sample.json") == 0

    packed = {name: text for name, _, _, text in entries("m.mar")}
    assert packed[f"{handler}.py"] == Path(f"{handler}.py").read_bytes()
    assert handler_of("m.mar") == f"{handler}_micro_batched.py"
    assert "micro_batch_handler/torchserve/brought.py" in packed
    output = capsys.readouterr().out
    assert "status 200" in output
    assert "42" in output


SIZES = """
from micro_batch_handler import MicroBatchHandler
from ts.torch_handler.base_handler import BaseHandler


class Handler(BASE):
    def initialize(self, context):
        pass

    def preprocess(self, data):
        self.sizes = [len(row["body"]) for row in data]
        return [1 for _ in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return self.sizes
"""


@pytest.mark.parametrize(
    ("base", "flags"), [("BaseHandler", ["--micro-batch"]), ("MicroBatchHandler", [])]
)
def test_it_is_said_at_packing_that_batches_will_stay_whole(base, flags, capsys):
    """State between stages is named with its lines, and how to hand it on."""
    Path("sized.py").write_text(SIZES.replace("BASE", base))

    assert pack("sized.py", *flags) == 0

    said = capsys.readouterr().err
    assert "self.sizes, stored in preprocess (line 11) and read in postprocess (line 18)" in said
    assert "thread_safe = True" in said


@pytest.mark.parametrize(
    ("base", "flags"), [("BaseHandler", ["--micro-batch"]), ("MicroBatchHandler", [])]
)
def test_state_that_would_be_in_two_processes_is_refused_at_packing(base, flags, capsys):
    """With share_model, where inference has a process of its own; without, it is a note."""
    across = SIZES.replace("BASE", base).replace("return batch", "return self.sizes")
    Path("sized.py").write_text(across)
    Path("shared.yaml").write_text("micro_batching: {share_model: true}\n")

    assert pack("sized.py", *flags, "--config-file", "shared.yaml") == 1

    said = capsys.readouterr().err
    assert "self.sizes, stored in preprocess (line 11) and read in inference (line 15)" in said
    assert "inference runs in another process" in said
    assert not Path("m.mar").exists()
    Path("shared.yaml").write_text("micro_batching: {share_model: false}\n")
    assert pack("sized.py", *flags, "--config-file", "shared.yaml") == 0


def test_a_front_is_the_same_each_time():
    """The generated file and the archive do not depend on where and when they were made."""
    pack("stages.py", "--micro-batch")
    first = Path("m.mar").read_bytes()

    pack("stages.py", "--micro-batch")

    assert first == Path("m.mar").read_bytes()


ADVISED = """
from micro_batch_handler import MicroBatchMixin


class Handler(MicroBatchMixin, BaseHandler):
    def initialize(self, context):
        pass

    def preprocess(self, data):
        return [row["body"]["number"] for row in data]

    def inference(self, batch):
        return [3 * number for number in batch]

    def postprocess(self, outputs):
        return outputs

    def handle(self, data, context):
        answers = super().handle(data, context)
        return [[answer] for answer in answers]
"""


def test_the_two_lines_that_are_advised_work(capsys):
    """A handler whose `handle` called the stages serves after the change that the refusal names."""
    base = "from ts.torch_handler.base_handler import BaseHandler\n"
    (class_line, call_line) = (
        "class Handler(MicroBatchMixin, BaseHandler):",
        "answers = super().handle(data, context)",
    )
    before = base + ADVISED.replace(class_line, "class Handler(BaseHandler):").replace(
        call_line, "answers = self.postprocess(self.inference(self.preprocess(data)))"
    )
    Path("h.py").write_text(before)
    assert pack("h.py", "--micro-batch") == 1
    advice = capsys.readouterr().err
    assert class_line in advice
    assert call_line in advice

    Path("h.py").write_text(base + ADVISED)
    assert pack("h.py", "--check", "sample.json") == 0

    assert "status 200" in capsys.readouterr().out


def test_a_named_function_is_taken_over():
    """The function after the colon is what the front calls."""
    Path("entry.py").write_text("def serve(data, context): ...\n")

    front = front_of(read_handler("entry.py:serve"))

    assert 'import_module("entry").serve' in front.text
    assert "has no stages" in front.note


@pytest.mark.parametrize(
    ("name", "kind"), [("base_handler", "BaseHandler"), ("image_classifier", "ImageClassifier")]
)
def test_a_built_in_handler_is_taken_over(name, kind):
    """A built-in name gets a front too, which imports TorchServe's own class."""
    assert pack(name, "--micro-batch") == 0

    packed = {name: text for name, _, _, text in entries("m.mar")}
    assert f'import_module("ts.torch_handler.{name}").{kind}' in str(
        packed[f"{name}_micro_batched.py"]
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (OWN_HANDLE, "line 3: Handler has a handle() of its own"),
        (OWN_HANDLE, "'class Handler(MicroBatchMixin, BaseHandler):'"),
        (STOCK, "line 5 sets self.handle"),
        (STOCK, "'from micro_batch_handler import MicroBatching'"),
        ("async def handle(data, context): ...", "line 1: handle is async"),
        (ONLY_HANDLE.replace("def handle", "async def handle"), "line 6: handle is async"),
        ("class Handler(MicroBatchHandler): ...", "micro-batches by itself"),
        ("class A: ...\nclass B: ...", "makes 2 classes"),
    ],
)
def test_what_cannot_be_taken_over_is_refused(source, says, capsys):
    """A handler that micro-batching would pass over is refused with the lines to change."""
    Path("h.py").write_text(source)

    assert pack("h.py", "--micro-batch") == 1

    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert not Path("m.mar").exists()


@pytest.mark.parametrize("name", ["vllm_handler", "trt_llm_handler"])
def test_built_in_handlers_that_stream_are_refused(name):
    """A built-in handler that has a `handle` of its own is refused."""
    with pytest.raises(ArchiveError, match="handle"):
        front_of(name)


def test_a_handler_that_is_not_there_is_named(capsys):
    """A wrong path is refused by its name."""
    assert pack("absent.py", "--micro-batch") == 1
    assert "--handler absent.py: there is no such file" in capsys.readouterr().err


# When the model loads


def test_a_handle_that_the_file_did_not_show_is_refused_at_load():
    """A `handle` from a base class in another file is found when the class is made."""

    class Helper(BaseHandler):
        def handle(self, data, context):
            return []

    with pytest.raises(ConfigError, match="Helper has a handle"):
        type("Front", (BroughtClass, Helper), {})


def test_a_handle_of_the_object_is_refused_at_load():
    """An object that replaces its `handle` when it is made is refused when it loads."""

    class Handler(BaseHandler):
        def __init__(self):
            super().__init__()
            self.handle = print

    front = type("Front", (BroughtClass, Handler), {})()

    with pytest.raises(ConfigError, match="Handler sets self"):
        front.initialize(fake_context(0))


def test_a_handler_with_ours_among_its_bases_is_left_to_it():
    """A `handle` that calls ours is in front of it, not behind, and stays in force."""

    class Own(Plain):
        def handle(self, data, context):
            return [f"<{answer}>" for answer in super().handle(data, context)]

    front = type("Front", (BroughtClass, Own), {})()
    front.initialize(fake_context(0))

    assert front.handle([{"body": "a"}, {"body": "b"}], fake_context(2)) == ["<a>", "<b>"]
    front.close()


def test_a_function_gets_its_micro_batch_and_a_view_of_it():
    """A function is called on some rows at a time, with a context in which they are the first."""
    seen = []

    def function(data, context):
        if data is not None:
            seen.append([context.get_request_id(at) for at in range(len(data))])
            return [row["body"] * 2 for row in data]
        return None

    front = type("Front", (BroughtFunction,), {"function": staticmethod(function)})()
    section = {"micro_batching": {"micro_batch_size": 2}}
    front.initialize(fake_context(0, model_yaml=section))

    answers = front.handle([{"body": n} for n in range(5)], fake_context(5))

    assert answers == [0, 2, 4, 6, 8]
    assert sorted(seen) == [["id-0", "id-1"], ["id-2", "id-3"], ["id-4"]]
    front.close()


def test_a_fault_in_a_function_costs_one_request():
    """A function without stages still fails only the request that it fails on."""

    def function(data, context):
        return None if data is None else [1 / row["body"] for row in data]

    front = type("Front", (BroughtFunction,), {"function": staticmethod(function)})()
    front.initialize(fake_context(0))
    context = fake_context(3)

    answers = front.handle([{"body": 1}, {"body": 0}, {"body": 2}], context)

    assert (answers[0], answers[2]) == (1.0, 0.5)
    assert [context.get_response_status(at)[0] for at in range(3)] == [200, 500, 200]
    front.close()
