"""A model that is compiled beside its calls: it answers before, after, and if that fails."""

from __future__ import annotations

import logging
import multiprocessing
import threading

import pytest
import torch

from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.pipeline.device.compiled_model import CompiledModel
from tests.fakes import fake_context

SIZES = [1, 2, 4]
WIDTH = 3
PATIENCE_S = 60
ENOUGH = 3
"""Calls with the same shapes, before these are compiled for."""


class Doubling(torch.nn.Module):
    """Doubles its argument; `scale` shows that attributes of a model stay within reach."""

    scale = 2

    def forward(self, rows, *, plus=0):
        return rows * self.scale + plus


class Compiler:
    """A compiler whose programs note their calls; it waits for a sign, if it is to.

    Args:
        wrong_by: how far its programs compute beside the model.
        waits: whether it compiles nothing before `go`.
    """

    def __init__(self, wrong_by: float = 0.0, *, waits: bool = False) -> None:
        self.wrong_by = wrong_by
        self.began, self.go = threading.Event(), threading.Event()
        if not waits:
            self.go.set()
        self.threads: list[str] = []
        self.called: list[int] = []

    def __call__(self, graph, examples):
        self.began.set()
        assert self.go.wait(PATIENCE_S)
        self.threads.append(threading.current_thread().name)

        def program(*args):
            self.called.append(len(args[0]))
            return [each + self.wrong_by for each in graph(*args)]

        return program


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def rows(number: int) -> torch.Tensor:
    """A different argument for each number of rows."""
    return torch.arange(number * WIDTH, dtype=torch.float32).reshape(number, WIDTH)


def compiled_by(compiler, sizes=SIZES):
    """A Doubling for which enough calls have come, and the answers to them."""
    model = CompiledModel(Doubling(), sizes, {"backend": compiler})
    with torch.no_grad():
        answers = [model(rows(2)) for _ in range(ENOUGH)]
    return model, answers


def settled(model):
    """Wait until it is known whether it is called compiled."""
    assert model.settled.wait(PATIENCE_S)
    return model


@torch.no_grad()
def test_calls_are_answered_while_the_model_is_compiled():
    """A compiler that takes its time keeps nobody waiting, and nothing is compiled in a lane."""
    compiler = Compiler(waits=True)
    model, answers = compiled_by(compiler)
    assert compiler.began.wait(PATIENCE_S)

    answers += [model(rows(2)), model(rows(4))]
    assert compiler.called == []
    compiler.go.set()
    settled(model)
    compiler.called.clear()
    after = {size: model(rows(size)) for size in SIZES}

    assert all(torch.equal(each, 2 * rows(len(each))) for each in [*answers, *after.values()])
    assert compiler.called == SIZES
    assert set(compiler.threads) == {"mbh-compile"}


@torch.no_grad()
@pytest.mark.parametrize("inference_mode", [False, True])
def test_each_size_is_compiled_once(inference_mode):
    """More sizes than the compiler takes by default, each a program, none compiled at a call."""
    sizes = range(1, 13)
    compiler = Compiler()
    with torch.inference_mode(inference_mode):
        argument = {size: rows(size) for size in sizes}
        model = CompiledModel(Doubling(), sizes, {"backend": compiler})
        for _ in range(ENOUGH):
            model(argument[2], plus=1)
        settled(model)
        compiled, compiler.called[:] = len(compiler.threads), []
        answers = [model(argument[size], plus=1) for size in sizes]

    assert all(torch.equal(each, 2 * rows(len(each)) + 1) for each in answers)
    assert compiler.called == list(sizes)
    assert compiled == len(compiler.threads) == len(sizes)


def test_a_model_that_cannot_be_compiled_is_called_as_it_is(caplog):
    """One line says why, and every call is answered."""

    def compiler(_graph, _examples):
        raise RuntimeError("no such instruction\nand a page of it")

    model, answers = compiled_by(compiler)
    answers.append(settled(model)(rows(2)))

    assert all(torch.equal(each, 2 * rows(2)) for each in answers)
    (record,) = [each for each in caplog.records if "uncompiled" in each.message]
    assert record.levelno == logging.WARNING
    assert "no such instruction" in record.message
    assert "\n" not in record.message


@torch.no_grad()
def test_a_program_that_computes_something_else_is_not_called(caplog):
    """What is compiled is compared with the model before it answers anybody."""
    compiler = Compiler(wrong_by=3.0)
    model, answers = compiled_by(compiler)
    settled(model)
    compiler.called.clear()
    answers.append(model(rows(2)))

    assert all(torch.equal(each, 2 * rows(2)) for each in answers)
    assert compiler.called == []
    assert "stays uncompiled: AssertionError: compiled, it answers 4 rows otherwise" in caplog.text


@torch.no_grad()
def test_rounding_is_no_reason_not_to_compile():
    """A program may sum in another order than the model does."""
    compiler = Compiler(wrong_by=1e-4)
    model = settled(compiled_by(compiler)[0])
    compiler.called.clear()

    model(rows(4))

    assert compiler.called == [4]


@torch.no_grad()
def test_arguments_of_other_shapes_are_answered_by_the_model_itself(caplog):
    """Of another length, type or number of rows: the answer is right, and one line says so."""
    caplog.set_level(logging.INFO)
    compiler = Compiler()
    model = settled(compiled_by(compiler)[0])
    programs = len(compiler.threads)
    compiler.called.clear()
    others = [torch.ones(2, WIDTH + 1), rows(2).double(), rows(3), torch.ones(2), torch.tensor(1.0)]

    answers = [model(each) for each in others]

    for answer, other in zip(answers, others, strict=True):
        assert torch.equal(answer, 2 * other)
    assert compiler.called == []
    assert len(compiler.threads) == programs
    assert "compiled for 1, 2, 4 rows (float32[rows, 3])" in caplog.text
    assert caplog.text.count("called uncompiled with 2 (float32[rows, 4])") == 1
    assert caplog.text.count("called uncompiled") == 1


@torch.no_grad()
def test_the_first_shapes_need_not_be_the_usual_ones():
    """One odd request at the start does not decide what is compiled."""
    compiler = Compiler()
    model = CompiledModel(Doubling(), SIZES, {"backend": compiler})

    model(torch.ones(2, 99))
    for _ in range(ENOUGH):
        model(rows(1))
    settled(model)
    compiler.called.clear()
    model(rows(4))

    assert compiler.called == [4]


def _compile(begun, done):
    logging.disable()
    compiler = Compiler()
    model, _ = compiled_by(compiler)
    begun.set()
    settled(model)
    done.put(len(compiler.threads))


def test_workers_compile_one_after_the_other(tmp_path, monkeypatch):
    """All but the first find what is compiled in the cache on disk, if they wait for the first."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    processes = multiprocessing.get_context("spawn")
    begun, done = processes.Event(), processes.Queue()
    first = Compiler(waits=True)
    model, _ = compiled_by(first)
    assert first.began.wait(PATIENCE_S)

    other = processes.Process(target=_compile, args=(begun, done), daemon=True)
    other.start()
    try:
        assert begun.wait(PATIENCE_S)
        assert done.empty()
        first.go.set()
        settled(model)
        assert done.get(timeout=PATIENCE_S) == len(SIZES)
    finally:
        other.join(PATIENCE_S)


class Served(MicroBatchHandler):
    """Serves a Doubling as BaseHandler does: it has `torch.compile` called by `pt2`."""

    def initialize(self, context):
        options = context.model_yaml_config["pt2"]["compile"]
        del options["enable"]  # as BaseHandler does
        self.model = torch.compile(Doubling(), **options)
        self.device = torch.device("cpu")

    def preprocess(self, data):
        return torch.tensor([row["body"] for row in data], dtype=torch.float32)

    def postprocess(self, data):
        return data.tolist()


@pytest.mark.parametrize("example", [False, True])
def test_a_handler_is_compiled_for_its_example_or_its_first_requests(example):
    """`pt2` with a mode is all that it takes; batches are answered before and after."""
    compiler = Compiler()
    pt2 = {"compile": {"enable": True, "backend": compiler, "mode": "reduce-overhead"}}
    kind = type("Exampled", (Served,), {"example_row": lambda _: {"body": [0.0] * WIDTH}})
    handler = (kind if example else Served)()
    yaml = {"batchSize": 8, "pt2": pt2}
    handler.initialize(fake_context(1, batch_size=8, model_yaml=yaml))
    data = [{"body": [float(number)] * WIDTH} for number in range(8)]
    expected = [[2.0 * number] * WIDTH for number in range(8)]

    try:
        if example:
            assert compiler.began.wait(PATIENCE_S)
        for _ in range(ENOUGH):
            assert handler.handle(data, fake_context(8)) == expected
        settled(vars(handler.model)["forward"])
        compiler.called.clear()
        assert handler.handle(data, fake_context(8)) == expected
        assert handler.model.scale == Doubling.scale
    finally:
        handler.close()

    assert len(compiler.threads) == 4  # 1, 2, 4 and 8 rows
    assert sum(compiler.called) == 8
    assert set(compiler.threads) == {"mbh-compile"}
