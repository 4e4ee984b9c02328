"""CUDA graphs, torch.compile's and hand-made ones, under `allowed_sizes`."""

from __future__ import annotations

import logging
import shutil
import sysconfig
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from tests.fakes import fake_context

SIZES = [1, 2, 4, 8]
WIDTH = 256
PATIENCE_S = 30
COMPILING_S = 150


def network(device) -> torch.nn.Module:
    """Small, and the same each time."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.GELU(), torch.nn.Linear(WIDTH, WIDTH)]
    return torch.nn.Sequential(*layers).to(device).eval()


def row(number: int) -> list[float]:
    """What a client sends."""
    return torch.sin(torch.arange(WIDTH) * (number + 1) / 7).tolist()


class Networked(MicroBatchMixin, BaseHandler):
    """Answers with what the network says; postprocess is as late as it can be."""

    def initialize(self, context):
        self.device = torch.device("cuda", 0)
        self.model = network(self.device)
        self.calls = []
        self.threads = set()
        self.serving = False
        self.called_again = threading.Event()
        self.prepare()

    def prepare(self):
        """Whatever a kind of graph needs."""

    def example_row(self):
        return {"body": row(0)}

    def preprocess(self, data):
        return torch.tensor([each["body"] for each in data])

    def inference(self, batch):
        if self.serving:
            self.threads.add(threading.current_thread().name)
            self.calls.append(len(batch))
            if len(self.calls) > 1:
                self.called_again.set()
        with torch.inference_mode():
            return self.call(batch)

    def call(self, batch):
        raise NotImplementedError

    def postprocess(self, outputs):
        if self.serving:
            # The next call has been made; its graph has overwritten what was not copied.
            assert self.called_again.wait(PATIENCE_S)
        return outputs.tolist()


class Compiled(Networked):
    """As TorchServe's `pt2: {compile: {mode: reduce-overhead}}` makes it."""

    def prepare(self):
        self.model = torch.compile(self.model, mode="reduce-overhead")

    def call(self, batch):
        return self.model(batch)


class Beside(Compiled):
    """The same, declared by `pt2`: compiled beside the calls, and captured there."""

    pt2: ClassVar = {"compile": {"mode": "reduce-overhead"}}

    def compiled(self):
        assert vars(self.model)["forward"].settled.wait(COMPILING_S)
        return vars(self.model)["forward"].is_used


class Captured(Networked):
    """A graph for each size, captured when the size first comes."""

    def prepare(self):
        self.graphs = {}

    def call(self, batch):
        if len(batch) not in self.graphs:
            self.graphs[len(batch)] = self.capture(batch)
        graph, taken, given = self.graphs[len(batch)]
        taken.copy_(batch)
        graph.replay()
        return given

    def capture(self, batch):
        taken = batch.clone()
        for _ in range(3):  # libraries take their workspaces before
            self.model(taken)
        graph = torch.cuda.CUDAGraph()
        # Other lanes may ask for memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            given = self.model(taken)
        return graph, taken, given


def serve(kind: type[Networked], rows: int, batches: int = 3):
    """The handler, and its answers to batches of so many rows."""
    handler = kind()
    section = {
        "micro_batch_size": {"preprocess": 2, "inference": 8, "postprocess": 8},
        "parallelism": {"preprocess": 2},
        "allowed_sizes": SIZES,
        "stage_timeout": None,
    }
    model_yaml = {"micro_batching": section, "pt2": getattr(kind, "pt2", None)}
    handler.initialize(fake_context(1, batch_size=32, model_yaml=model_yaml))
    try:
        if isinstance(handler, Beside):
            assert handler.compiled()
        handler.serving = True
        answers = [
            handler.handle([{"body": row(number)} for number in range(rows)], fake_context(rows))
            for _ in range(batches)
        ]
    finally:
        handler.close()
    return handler, answers


def assert_right(answers, rows):
    """The answers of every batch are those of the network without graphs."""
    model = network("cuda")
    batch = torch.tensor([row(number) for number in range(rows)], device="cuda")
    with torch.inference_mode():
        expected = model(batch).cpu()
    for each in answers:
        torch.testing.assert_close(torch.tensor(each), expected, rtol=1e-2, atol=1e-3)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", [Compiled, Beside])
def test_torch_compile_with_reduced_overhead(bench, note, caplog, kind):
    """Compiled at load, in the lane that runs it or beside; no answer is overwritten."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("torch.compile needs a C compiler: apt-get install gcc")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        pytest.skip("torch.compile needs Python's headers: apt-get install python3-dev")

    with caplog.at_level(logging.WARNING):
        handler, answers = serve(kind, 29)

    note(
        "CUDA graphs",
        kind=f"{kind.__name__}: torch.compile(mode='reduce-overhead')",
        **{"calls of inference": handler.calls, "lanes": sorted(handler.threads)},
    )
    assert set(handler.calls) <= set(SIZES)
    assert handler.threads == {"mbh-inference-0"}
    assert_right(answers, 29)


def test_graphs_that_a_handler_captures_itself(bench, note):
    """One graph for each size, replayed in the lane that captured it; no answer is overwritten."""
    handler, answers = serve(Captured, 29)

    note(
        "CUDA graphs",
        kind="captured by the handler",
        **{"calls of inference": handler.calls, "lanes": sorted(handler.threads)},
    )
    assert sorted(handler.graphs) == SIZES
    assert handler.threads == {"mbh-inference-0"}
    assert_right(answers, 29)
