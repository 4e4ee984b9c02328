"""`allowed_sizes`: inference sees few row counts, each warmed at load, in one thread."""

from __future__ import annotations

import threading

import pytest
import torch

from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import ConfigError, PayloadError
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import fake_context, plan, stages


def recording(calls: list[tuple[int, str]]):
    """An inference that notes its rows and its thread, and adds 1."""

    def inference(batch):
        calls.append((len(batch), threading.current_thread().name))
        return batch + 1

    return inference


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13])
def test_calls_are_filled_up_and_the_answers_are_the_requests_own(rows):
    """Inference is called with allowed sizes only, and what fills them reaches nobody."""
    calls: list[tuple[int, str]] = []
    functions = stages(torch.tensor, recording(calls), lambda outputs: outputs.tolist())

    with Pipeline(functions, PerStage(2, 1, 1), allowed_sizes=[2, 4]) as pipeline:
        outcomes = pipeline.run(list(range(rows)), plan(1, 4, 3))

    assert [row + 1 for row in range(rows)] == outcomes.answers
    assert {size for size, _ in calls} <= {2, 4}


def test_inference_stays_in_its_lane():
    """Neither small batches nor rows that start again after a fault call it in another thread."""
    calls: list[tuple[int, str]] = []

    def postprocess(outputs):
        if 4 in outputs.tolist():
            raise ValueError
        return outputs.tolist()

    functions = stages(torch.tensor, recording(calls), postprocess)
    with Pipeline(functions, PerStage(1, 1, 1), allowed_sizes=[1, 2, 4]) as pipeline:
        small = pipeline.run([1], plan(4))
        faulty = pipeline.run(list(range(32)), plan(4))

    assert [2] == small.answers
    assert {3} == faulty.failures.keys()
    assert [row + 1 for row in range(32) if row != 3] == faulty.answers[:3] + faulty.answers[4:]
    assert {"mbh-inference-0"} == {thread for _, thread in calls}


def test_all_rows_starting_again_at_once_block_nobody():
    """Postprocess gives all of its micro-batches back to a full inference lane, and all end."""

    def fail(_outputs):
        raise ValueError

    functions = stages(torch.tensor, recording([]), fail)
    with Pipeline(functions, PerStage(2, 1, 3), allowed_sizes=[1, 2]) as pipeline:
        outcomes = pipeline.run(list(range(64)), plan(2))

    assert set(range(64)) == outcomes.failures.keys()


def test_a_payload_that_cannot_be_filled_up_says_what_to_do():
    """An opaque payload fails with the stage, the size and the way out."""
    functions = stages(lambda _rows: object(), lambda batch: batch, lambda _outputs: [0, 0, 0])

    with Pipeline(functions, PerStage(1, 1, 1), allowed_sizes=[4]) as pipeline:
        outcomes = pipeline.run([1, 2, 3], plan(4))

    error = outcomes.failures[0].error
    assert isinstance(error, PayloadError)
    assert "cannot be filled up to 4 rows" in str(error)
    assert "Remove allowed_sizes" in str(error)


class Compiled(MicroBatchHandler):
    """A model whose every new shape costs a compilation."""

    def initialize(self, context):
        self.context = context
        self.device = torch.device("cpu")
        self.compiled: list[tuple[int, ...]] = []
        self.seen: list[int] = []
        self.model = torch.compile(torch.nn.Linear(3, 3), backend=self.compile, dynamic=False)

    def compile(self, graph, inputs):
        self.compiled.append((inputs[-1].shape[0], threading.current_thread().name))
        return graph.forward

    def preprocess(self, data):
        self.seen.append(len(data))
        assert all(self.context.get_request_id(i) is not None for i in range(len(data)))
        return torch.tensor([row.pop("body") for row in data])

    def inference(self, data):
        with torch.no_grad():
            return self.model(data)


class Exemplary(Compiled):
    def example_row(self):
        return {"body": [1.0, 2.0, 3.0]}


def loaded(kind: type, **section: object):
    handler = kind()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    return handler


def answered(handler, rows: int):
    return handler.handle(
        [{"body": [float(row), 0.0, 0.0]} for row in range(rows)], fake_context(rows)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_size_is_compiled_at_load_and_none_later():
    """Batches of all sizes cost no compilation once the model is loaded."""
    handler = loaded(Exemplary, allowed_sizes=[2, 4, 8], micro_batch_size=8)
    try:
        at_load = list(handler.compiled)
        # Graphs are recorded by the second call and replayed by the third.
        assert [8, 8, 8, 4, 4, 4, 2, 2, 2] == handler.seen
        for rows in range(1, 33):
            assert rows == len(answered(handler, rows))

        assert {2, 4, 8} == {size for size, _ in at_load}
        assert {"mbh-inference-0"} == {thread for _, thread in at_load}
        assert at_load == handler.compiled
    finally:
        handler.close()
        torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_an_example_sizes_are_compiled_when_they_come(caplog):
    """The handler serves, and the log says how to warm it up."""
    caplog.set_level("INFO")
    handler = loaded(Compiled, allowed_sizes=[4, 8], micro_batch_size=8)
    try:
        assert [] == handler.compiled
        assert "Override example_row()" in caplog.text
        assert 3 == len(answered(handler, 3))
        assert [4] == [size for size, _ in handler.compiled]
    finally:
        handler.close()
        torch.compiler.reset()


def test_an_example_that_fails_fails_the_load():
    """The message names the size, the stage and what it raised; no lane is left."""

    class Wrong(Compiled):
        def example_row(self):
            return {}

    with pytest.raises(ConfigError, match="batch of 2: preprocess raised KeyError"):
        loaded(Wrong, allowed_sizes=[1, 2])


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"allowed_sizes": []}, "allowed_sizes must be a list of whole numbers"),
        ({"allowed_sizes": [4, 2]}, "found [4, 2]"),
        ({"allowed_sizes": [0]}, "each above the one before, or null, found [0]"),
        ({"allowed_sizes": 4}, "found 4"),
        (
            {"allowed_sizes": [4], "parallelism": {"inference": 2}},
            "parallelism.inference must be 1 with allowed_sizes, found 2",
        ),
        (
            {"allowed_sizes": [4], "micro_batch_size": {"inference": 5}},
            "micro_batch_size.inference must be at most 4",
        ),
    ],
)
def test_sizes_that_cannot_work_are_refused(config_of, section, says):
    """The message has the key, the rule and the value."""
    with pytest.raises(ConfigError) as refused:
        config_of(**section)

    assert says in str(refused.value)


def test_a_graphs_output_is_not_overwritten_by_the_next_call():
    """A CUDA graph writes every result to the same memory, and each request gets its own.

    So do the graphs of `torch.compile(mode="reduce-overhead")`, without a word once they are made.
    """
    static = {size: torch.empty(size) for size in (1, 2)}
    called_again = threading.Event()

    def replay(batch):
        if len(calls) == 1:
            called_again.set()
        calls.append(len(batch))
        return static[len(batch)].copy_(batch + 1)

    def read(outputs):
        assert called_again.wait(10)
        return outputs.tolist()

    calls: list[int] = []
    with Pipeline(
        stages(torch.tensor, replay, read), PerStage(1, 1, 1), allowed_sizes=[1, 2]
    ) as pipeline:
        outcomes = pipeline.run([float(row) for row in range(7)], plan(2))

    assert [row + 1.0 for row in range(7)] == outcomes.answers
