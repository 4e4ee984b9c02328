"""A fault costs the request that caused it, and no other."""

from __future__ import annotations

import json
import math
import random
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.utils.util import PredictionException

from harness.fixtures import lanes
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.batch import Batch
from micro_batch_handler.pipeline.device.device_errors import device_is_lost
from micro_batch_handler.pipeline.payloads.operations import PayloadOps, cut, join
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.recovery import Policy
from tests.fakes import fake_context, plan, stages

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""

SECRET = "a secret of the server"


class MuteError(Exception):
    """An error that cannot be read."""

    def __str__(self):
        raise RuntimeError(SECRET)


class HoldingError(Exception):
    """An error that holds a tensor."""

    def __init__(self):
        super().__init__(SECRET)
        self.tensor = torch.zeros(1000)


def recurse(depth: int = 0):
    return recurse(depth + 1)


def raising(error: BaseException):
    def fault(_rows):
        raise error

    return fault


FAULTS = {
    "Exception": (raising(ValueError(SECRET)), None),
    "PredictionException": (raising(PredictionException("as you say", 422)), 422),
    "SystemExit": (raising(SystemExit(3)), None),
    "KeyboardInterrupt": (raising(KeyboardInterrupt()), None),
    "BaseException": (raising(BaseException(SECRET)), None),
    "StopIteration": (raising(StopIteration(SECRET)), None),
    "MemoryError": (raising(MemoryError(SECRET)), 507),
    "OutOfMemoryError": (raising(torch.OutOfMemoryError(SECRET)), 507),
    "an unreadable error": (raising(MuteError()), None),
    "an error that holds a tensor": (raising(HoldingError()), None),
    "recursion": (lambda _rows: recurse(), None),
    "None": (lambda _rows: None, 500),
    "a dict": (lambda rows: dict(enumerate(rows)), 500),
    "a string": (lambda rows: "x" * len(rows), 500),
    "a generator": (lambda rows: (row for row in rows), 500),
    "a tensor": (lambda rows: torch.zeros(len(rows)), 500),
    "too short": (lambda rows: rows[:-1], 500),
    "too long": (lambda rows: [*rows, rows[0]], 500),
}
"""What can happen to the rows of a call, and the status if it does not depend on the stage."""


class Faulty(MicroBatchHandler):
    """Doubles numbers; a call with the poisoned one goes wrong in one stage."""

    stage = ""
    fault = None
    poison: int | None = None

    def initialize(self, context):
        pass

    def preprocess(self, data):
        return self.go_wrong("preprocess", [row["body"] for row in data])

    def inference(self, batch):
        assert isinstance(batch, list), "preprocess has returned something else"
        return self.go_wrong("inference", [2 * number for number in batch])

    def postprocess(self, outputs):
        assert isinstance(outputs, list), "inference has returned something else"
        return self.go_wrong("postprocess", [{"double": number} for number in outputs])

    def go_wrong(self, stage, rows):
        poisoned = {2 * self.poison, self.poison} if self.poison is not None else set()
        found = {row["double"] if isinstance(row, dict) else row for row in rows}
        return type(self).fault(rows) if stage == self.stage and found & poisoned else rows


def numbers(count: int) -> list[dict]:
    """Odd, so that no number is the double of another."""
    return [{"body": 2 * index + 1} for index in range(count)]


@pytest.mark.parametrize("sizes", [(1, 6, 3), (12, 12, 12)], ids=str)
@pytest.mark.parametrize("position", [0, 5, 11], ids=["first", "middle", "last"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", FAULTS)
def test_the_fault_matrix(kind, stage, position, sizes):
    """Whatever goes wrong wherever: its request fails alone, and the next batch is right."""
    fault, code = FAULTS[kind]
    handler = type("H", (Faulty,), {"stage": stage, "fault": staticmethod(fault)})()
    section = {"micro_batch_size": dict(zip(STAGES, sizes, strict=True))}
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    before = lanes()
    handler.poison = 2 * position + 1
    context = fake_context(12)

    answers = handler.handle(numbers(12), context)

    # What stands in a dict or a string is not counted, so the next stage finds it out.
    code = code or (400 if stage == "preprocess" else 500)
    assert code == context.get_response_status(position)[0]
    assert answers[position]["code"] == code
    assert SECRET not in json.dumps(answers[position])
    right = [i for i in range(12) if i != position]
    assert [{"double": 4 * i + 2} for i in right] == [answers[i] for i in right]
    assert {200} == {context.get_response_status(i)[0] for i in right}

    handler.poison = None
    again = handler.handle(numbers(12), fake_context(12))
    assert [{"double": 4 * i + 2} for i in range(12)] == again
    assert before == lanes()
    handler.close()


@given(st.integers(1, 64), st.data())
@settings(max_examples=200, deadline=None)
def test_the_guilty_are_found_in_few_calls(rows, data):
    """K guilty of n rows cost at most about 2 k (log2 n + 1) calls, and each has an outcome."""
    guilty = data.draw(st.sets(st.integers(0, rows - 1)))
    calls = []

    def inference(batch):
        calls.append(len(batch))
        if guilty & set(batch):
            raise ValueError
        return batch

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(rows)), plan(rows))

    assert guilty == outcomes.failures.keys()
    assert all(outcomes.answers[i] == i for i in range(rows) if i not in guilty)
    assert len(calls) <= max(1, 2 * len(guilty) * (math.ceil(math.log2(rows)) + 1))


@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_that_does_not_repeat_leaves_nobody_failed(stage, rows):
    """The first call of a stage fails, whatever it is about: all are answered."""
    calls = []

    def once(payload):
        calls.append(payload)
        if len(calls) == 1:
            raise ValueError
        return payload

    functions = stages()
    functions[stage] = stages(once, once, once)[stage]
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(rows)), plan(7))

    assert (list(range(rows)), {}) == (outcomes.answers, outcomes.failures)


def spoiling_tensor(batch):
    return batch.mul_(10)


def spoiling_array(batch):
    batch *= 10
    return batch


def spoiling_list(batch):
    batch[:] = [10 * number for number in batch]
    return batch


def spoiling_mapping(batch):
    batch["x"].mul_(10)
    return batch


def spoiling_by_a_new_column(batch):
    batch["x"] = batch["x"] * 10
    return batch


def spoiling_data(batch):
    batch.data.mul_(10)
    return batch


def in_inference_mode(rows):
    with torch.inference_mode():
        return torch.tensor(rows)


@pytest.mark.parametrize(
    ("preprocess", "spoil"),
    [
        (torch.tensor, spoiling_tensor),
        (in_inference_mode, spoiling_tensor),
        (lambda rows: torch.tensor(rows).numpy(), spoiling_array),
        (list, spoiling_list),
        (lambda rows: {"x": torch.tensor(rows)}, spoiling_mapping),
        (lambda rows: {"x": torch.tensor(rows)}, spoiling_by_a_new_column),
        (torch.tensor, spoiling_data),
    ],
    ids=["tensor", "inference tensor", "array", "list", "mapping", "new column", "data"],
)
def test_a_payload_that_the_failed_call_has_changed_is_not_used_again(preprocess, spoil):
    """A call that scales its input in place and then fails does not spoil its neighbours."""

    def inference(batch):
        with torch.inference_mode(isinstance(batch, torch.Tensor) and batch.is_inference()):
            spoiled = spoil(batch)
        values = spoiled["x"] if isinstance(spoiled, dict) else spoiled
        if 50 in [int(value) for value in values]:
            raise ValueError
        return [int(value) for value in values]

    functions = stages(preprocess, inference)
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(8)), plan(8))

    assert {5} == outcomes.failures.keys()
    assert [10 * i for i in range(8) if i != 5] == [
        answer for i, answer in enumerate(outcomes.answers) if i != 5
    ]


def test_a_row_that_preprocess_takes_apart_can_start_again():
    """A preprocess that pops the body out of its row finds it there at the second attempt."""

    def preprocess(rows):
        bodies = [row.pop("body") for row in rows]
        if 2 in bodies:
            raise ValueError
        return bodies

    with Pipeline(stages(preprocess), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([{"body": i} for i in range(4)], plan(4))

    assert {2} == outcomes.failures.keys()
    assert [0, 1, 3] == [outcomes.answers[i] for i in (0, 1, 3)]


def test_a_json_body_that_preprocess_takes_apart_can_start_again():
    """A preprocess that pops keys out of a decoded body finds them there at the second attempt."""

    def preprocess(rows):
        answers = []
        for row in rows:
            scale = row["body"].pop("parameters")["scale"]
            answers.append(row["body"].pop("inputs")[0] * scale)
        if -20 in answers:
            raise ValueError
        return answers

    rows = [{"body": {"inputs": [number], "parameters": {"scale": 10}}} for number in (1, -2, 3, 4)]
    with Pipeline(stages(preprocess), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(rows, plan(4))

    assert {1} == outcomes.failures.keys()
    assert [10, 30, 40] == [outcomes.answers[i] for i in (0, 2, 3)]


def test_a_result_that_cannot_be_regrouped_is_isolated():
    """Where one row makes a stage return something that cannot be cut, it fails alone."""
    functions = stages(
        inference=lambda batch: "oops" if -1 in batch else batch,
        postprocess=lambda batch: batch if isinstance(batch, list) else None,
    )
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2, -1, 4, 5], plan(4, 4, 2))

    assert {2} == outcomes.failures.keys()


@pytest.mark.parametrize("where", ["join", "cut"])
def test_hooks_that_fail_cost_no_neighbour_and_hang_nobody(where):
    """What a handler's own `join_payloads` or `cut_payload` raises is an error like any other."""

    def fail(*_):
        raise ValueError("hook")

    ops = PayloadOps(
        lambda _: None,
        lambda _: None,
        fail if where == "cut" else cut,
        fail if where == "join" else join,
    )
    sizes = plan(1, 4, 4) if where == "join" else plan(4, 1, 4)
    with Pipeline(stages(), PerStage(1, 1, 1), ops=ops) as pipeline:
        outcomes = pipeline.run([1, 2, 3], sizes)

    assert ([1, 2, 3], {}) == (outcomes.answers, outcomes.failures)


def test_a_stopped_batch_leaves_no_trace_on_the_next():
    """With `fail_batch` a call that ends late is waited for, and writes nothing afterwards."""
    inside, release = threading.Event(), threading.Event()
    kept = []

    def preprocess(_tag, call, payload):
        if 0 in payload:
            inside.set()
            release.wait(GATE_S)
        elif 1 in payload:
            inside.wait(GATE_S)
            release.set()
            raise ValueError
        return list(payload), lambda: kept.extend(call.micro_batch.indices)

    functions = {**stages(), "preprocess": preprocess}
    policy = Policy(isolate=False)
    with Pipeline(functions, PerStage(2, 1, 1), policy=policy) as pipeline:
        outcomes = pipeline.run([0, 1], plan(1))
        kept_then = list(kept)

    assert {1} <= outcomes.failures.keys()
    assert kept_then == kept
    assert {0, 1} - set(kept) == outcomes.failures.keys()


def test_halves_of_what_cannot_be_cut_start_again_from_their_rows():
    """A payload of the user's own type is made anew for each half."""

    class Opaque:
        def __init__(self, rows):
            self.rows = list(rows)

    def inference(opaque):
        if 3 in opaque.rows:
            raise ValueError
        return opaque

    functions = stages(Opaque, inference, lambda opaque: opaque.rows)
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(6)), plan(3))

    assert {3} == outcomes.failures.keys()
    assert [0, 1, 2, 4, 5] == [outcomes.answers[i] for i in (0, 1, 2, 4, 5)]


def test_a_stage_that_rejects_one_request_on_purpose_is_not_asked_twice():
    """A deliberate answer to a single request is final at once."""
    asked = []

    def preprocess(rows):
        asked.append(rows)
        raise PredictionException("no", 422)

    policy = Policy(deliberate=(PredictionException,))
    with Pipeline(stages(preprocess), PerStage(1, 1, 1), policy=policy) as pipeline:
        pipeline.run([1], plan(1))

    assert [[1]] == asked


def test_rows_whose_payload_cannot_be_cut_pass_together():
    """A payload that the plan must cut and cannot is made once more for all of its rows, uncut."""
    calls = []

    def preprocess(rows):
        calls.append(list(rows))
        return "text"

    functions = stages(preprocess, postprocess=lambda _: ["a", "b"])
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2], plan(1, 2, 2))

    assert ["a", "b"] == outcomes.answers
    assert {PayloadError} == {type(failure.error) for failure in outcomes.rescued}
    assert calls == [[1], [2], [1, 2]]


def test_a_row_that_spoils_a_shared_payload_fails_alone():
    """Rows that preprocess padded to a monstrous neighbour start again, each without it."""

    def preprocess(rows):
        return torch.ones(len(rows), 1000 if 5 in rows else 1)

    def inference(batch):
        if batch.shape[1] > 1:
            raise MemoryError
        return batch.sum(dim=1).tolist()

    with Pipeline(stages(preprocess, inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(8)), plan(8))

    assert {5} == outcomes.failures.keys()


def test_a_row_of_another_shape_does_not_spoil_those_it_would_be_joined_to():
    """Payloads that cannot be joined are inferred in parts, so everybody is answered."""

    def preprocess(rows):
        return torch.ones(1, 3 if rows == [5] else 2)

    functions = stages(preprocess, lambda batch: batch.sum(dim=1).tolist())
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(8)), plan(1, 8, 8))

    assert ([2, 2, 2, 2, 2, 3, 2, 2], {}) == (outcomes.answers, outcomes.failures)


@pytest.mark.parametrize("seed", range(20))
def test_faults_in_all_stages_at_once_cost_only_the_guilty(seed):
    """Random guilty rows in every stage, random sizes and lanes: the others are answered."""
    chance = random.Random(seed)
    guilty = {stage: {i for i in range(40) if chance.random() < 0.08} for stage in STAGES}

    def poisoned(stage):
        def call(payload):
            if guilty[stage] & set(payload):
                raise ValueError(stage)
            return list(payload)

        return call

    functions = stages(*(poisoned(stage) for stage in STAGES))
    with Pipeline(functions, PerStage(*(chance.randint(1, 3) for _ in STAGES))) as pipeline:
        sizes = [chance.randint(1, 20) for _ in STAGES]
        outcomes = pipeline.run(list(range(40)), plan(*sizes))

    everybody = set().union(*guilty.values())
    assert everybody == outcomes.failures.keys()
    assert all(outcomes.answers[i] == i for i in range(40) if i not in everybody)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: unspecified launch failure"),
        torch.AcceleratorError("CUDA error: misaligned address"),
    ],
    ids=str,
)
def test_a_lost_device_is_not_retried(error):
    """Nothing is called again on a device that is gone; the batch is answered and that is said."""
    calls = []

    def inference(batch):
        calls.append(batch)
        raise error

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(8)), plan(2))

    assert len(calls) == 1
    assert set(range(8)) == outcomes.failures.keys()
    assert outcomes.fatal


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: invalid configuration argument"),
        torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
        torch.AcceleratorError("CUDA error: failed due to a previous error during capture"),
        RuntimeError("shapes do not match"),
        ValueError("device-side assert"),
        MuteError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_do_not_mean_that_the_device_is_lost(error):
    """Memory that runs out, a plain error and one that quotes the words leave the worker alive."""
    assert not device_is_lost(error)


def failing_batch(error):
    """A handler with `on_error: fail_batch`, and a context for its batch."""
    handler = type("H", (Faulty,), {"stage": "inference", "fault": staticmethod(raising(error))})()
    handler.poison = 5
    section = {"micro_batch_size": 2, "on_error": "fail_batch"}
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    return handler


@pytest.mark.parametrize("error", [ValueError("as it is"), MemoryError(), PredictionException("x")])
def test_fail_batch_raises_the_stages_own_exception(error):
    """With `on_error: fail_batch` TorchServe gets the very exception, and maps it by its type."""
    handler = failing_batch(error)

    with pytest.raises(type(error)) as raised:
        handler.handle(numbers(6), fake_context(6))

    assert error is raised.value
    handler.poison = None
    assert len(handler.handle(numbers(6), fake_context(6))) == 6
    handler.close()


def test_none_from_preprocess_reaches_inference_when_rows_start_again():
    """A second attempt hands on what preprocess returned, even None, and never the raw rows."""
    seen = []

    def inference(payload):
        seen.append(payload)
        raise ValueError

    functions = stages(lambda _: None, inference)
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        pipeline.run([1, 2], plan(2))

    assert {None} == set(seen)


def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(monkeypatch):
    """Should the package's own code fail in a lane, the batch still ends, with that error."""

    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(Batch, "accept", broken)
    with Pipeline(stages(), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2, 3], plan(1))

    assert {0, 1, 2} == outcomes.failures.keys()
    assert str(outcomes.failures[0].error) == "ours"


def test_a_stage_is_never_called_in_more_threads_than_it_has_lanes():
    """Rows that start again in another stage's lane wait until a lane of theirs is free."""
    in_use, again, violations = threading.Lock(), threading.Event(), []

    def preprocess(rows):
        if not in_use.acquire(blocking=False):
            violations.append(rows)
            again.set()
            return list(rows)
        try:
            if rows == [2, 3]:
                again.wait(0.3)  # in which inference fails on the first two and starts them again
            return list(rows)
        finally:
            in_use.release()

    def inference(batch):
        if 1 in batch:
            raise ValueError
        return batch

    with Pipeline(stages(preprocess, inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([0, 1, 2, 3], plan(2))

    assert [] == violations
    assert {1} == outcomes.failures.keys()
