"""Rows of different kinds: apart in inference and postprocess, each with its own answer."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import LengthError, StageTimeout
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import ManualClock, fake_context, plan, stages

Row = tuple[int, str]
"""A number that tells the rows apart, and the kind of the row."""

SIZES = st.tuples(*[st.integers(1, 9)] * 3)


def kinds(payload):
    return [kind for _, kind in payload]


OPS = replace(CUT_AND_JOIN, group_by=kinds)


class Calls:
    """Stages that note their calls and fail for some rows."""

    def __init__(self, bad=frozenset()):
        self.bad = bad
        self.seen = {"inference": [], "postprocess": []}
        self._lock = threading.Lock()

    def note(self, stage):
        def function(batch):
            with self._lock:
                self.seen[stage].append(tuple(batch))
            if self.bad & {(stage, number) for number, _ in batch}:
                raise ValueError("bad")
            return list(batch)

        return function

    def run(self, rows, sizes, lanes=(2, 2, 2), **kwargs):
        functions = stages(list, self.note("inference"), self.note("postprocess"))
        with Pipeline(functions, PerStage(*lanes), ops=OPS, **kwargs) as pipeline:
            return pipeline.run(rows, plan(*sizes))


def drawn(keys: str) -> list[Row]:
    return list(enumerate(keys))


@given(keys=st.text("ab", max_size=16), sizes=SIZES, bad=st.sets(st.integers(0, 15), max_size=2))
def test_no_call_has_rows_of_two_kinds(keys, sizes, bad):
    """Whatever the plan and whoever fails, kinds stay apart and every request has its outcome."""
    rows = drawn(keys)
    calls = Calls(frozenset(("inference", number) for number in bad))

    outcomes = calls.run(rows, sizes)

    for batch in [*calls.seen["inference"], *calls.seen["postprocess"]]:
        assert len(set(kinds(batch))) == 1
        assert list(batch) == sorted(batch)
    assert outcomes.failures.keys() == bad & set(range(len(rows)))
    assert all(
        outcomes.answers[number] == (number, kind)
        for number, kind in rows
        if number not in outcomes.failures
    )


@given(keys=st.text("abc", max_size=16), sizes=SIZES)
def test_the_calls_are_fixed_by_the_plan_and_the_keys(keys, sizes):
    """However the lanes take turns, the same batch gives the same calls."""
    several, few = Calls(), Calls()
    several.run(drawn(keys), sizes, lanes=(4, 3, 2))
    few.run(drawn(keys), sizes, lanes=(1, 1, 1))

    for stage in several.seen:
        assert sorted(several.seen[stage]) == sorted(few.seen[stage])


def test_kinds_are_parted_within_the_groups_of_the_plan():
    """Inference waits for the rows that the plan gives it, and is called once for each kind."""
    calls = Calls()
    calls.run(drawn("abababbb"), (1, 4, 8))

    assert sorted(calls.seen["inference"]) == [
        ((0, "a"), (2, "a")),
        ((1, "b"), (3, "b")),
        ((4, "a"),),
        ((5, "b"), (6, "b"), (7, "b")),
    ]
    assert sorted(map(len, calls.seen["postprocess"])) == [3, 5]


def test_rows_of_one_kind_are_called_as_without_keys():
    """Where nothing differs, the plan alone decides."""
    calls = Calls()
    calls.run(drawn("aaaaaaaa"), (1, 4, 8))

    assert sorted(map(len, calls.seen["inference"])) == [4, 4]
    assert sorted(map(len, calls.seen["postprocess"])) == [8]


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_a_batch_that_runs_inline_is_parted_too(timeout_s):
    """In the caller's thread kinds stay apart as well."""
    calls = Calls()
    outcomes = calls.run(drawn("abba"), (4, 4, 4), stage_timeout_s=timeout_s)

    assert outcomes.answers == drawn("abba")
    assert sorted(map(kinds, calls.seen["inference"])) == [["a", "a"], ["b", "b"]]


def test_a_deadline_that_passes_leaves_the_other_kinds_alone():
    """Requests that leave are taken out before the others are parted."""
    clock = ManualClock()
    calls = Calls()

    def late(rows):
        clock.advance(1)
        return list(rows)

    functions = stages(late, calls.note("inference"), calls.note("postprocess"))
    with Pipeline(functions, PerStage(1, 1, 1), ops=OPS, clock=clock) as pipeline:
        outcomes = pipeline.run(drawn("abab"), plan(4), deadlines_s=[None, 0.5, 0.5, None])

    assert outcomes.failures.keys() == {1, 2}
    assert sorted(calls.seen["inference"]) == [((0, "a"),), ((3, "b"),)]


def test_a_kind_whose_call_hangs_costs_the_other_kinds_nothing():
    """What a lane was to call next is called by its successor, with its own rows."""
    clock, gate, calls = ManualClock(), threading.Event(), Calls()
    note = calls.note("inference")

    def hang_for_a(batch):
        result = note(batch)
        if "a" in kinds(batch):
            clock.advance(10)
            gate.wait(60)
        return result

    functions = stages(list, hang_for_a, calls.note("postprocess"))
    with Pipeline(
        functions, PerStage(1, 1, 1), ops=OPS, clock=clock, stage_timeout_s=5
    ) as pipeline:
        outcomes = pipeline.run(drawn("abab"), plan(1, 4, 4))
        gate.set()

    assert outcomes.failures.keys() == {0, 2}
    assert {type(failure.error) for failure in outcomes.failures.values()} == {StageTimeout}
    assert calls.seen["inference"] == [((0, "a"), (2, "a")), ((1, "b"), (3, "b"))]
    assert [outcomes.answers[at] for at in (1, 3)] == [(1, "b"), (3, "b")]


@pytest.mark.parametrize(
    ("group_by", "error", "says"),
    [
        (lambda _: ["a"], LengthError, r"group_by\(\) must give a key for each row"),
        (lambda payload: [[] for _ in payload], TypeError, "unhashable"),
    ],
)
def test_keys_that_cannot_work_are_errors_of_preprocess(group_by, error, says):
    """A wrong number of keys, or one that cannot be a key, is said where it comes from."""
    ops = replace(CUT_AND_JOIN, group_by=group_by)
    with Pipeline(stages(), PerStage(1, 1, 1), ops=ops) as pipeline:
        outcomes = pipeline.run([1, 2, 3], plan(3))

    assert not outcomes.failures
    failures = [*outcomes.retried, *outcomes.rescued]
    assert {failure.stage for failure in failures} == {"preprocess"}
    with pytest.raises(error, match=says):
        raise failures[0].error


class Images(MicroBatchHandler):
    """Images of different sizes, and a network that takes them only in stacks."""

    def initialize(self, context):
        self.stacks = []

    def preprocess(self, data):
        return [torch.full((row["body"], 2), float(row["body"])) for row in data]

    def inference(self, images):
        stack = torch.stack(images)
        self.stacks.append(len(stack))
        return stack.sum(dim=(1, 2))

    def postprocess(self, sums):
        return sums.tolist()


class Grouped(Images):
    def group_by(self, payload):
        return [image.shape for image in payload]


def ask(kind, batches=1, **section):
    handler = kind()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    edges = [3, 5, 3, 5, 3, 5, 3, 4]
    right = True
    for _ in range(batches):
        answers = handler.handle([{"body": edge} for edge in edges], fake_context(len(edges)))
        right &= answers == [2.0 * edge * edge for edge in edges]
    handler.close()
    return handler.stacks, right


@pytest.mark.parametrize(
    "section", [{}, {"micro_batch_size": {"preprocess": 1, "inference": 8, "postprocess": 4}}]
)
def test_images_of_each_size_are_stacked(section):
    """A handler that says its shapes gets one stack for each, on its real methods."""
    stacks, right = ask(Grouped, **section)

    assert right
    assert sorted(stacks) == [1, 3, 4]


class Blocks(Images):
    """The same, with tensors that are joined between the stages."""

    def preprocess(self, data):
        return torch.stack(super().preprocess(data))

    def inference(self, images):
        return super().inference(list(images))


def test_without_keys_the_message_names_both_hooks(caplog):
    """Shapes that differ are answered row by row, and the log names the two ways out."""
    sizes = {"preprocess": 1, "inference": 8, "postprocess": 8}
    with caplog.at_level(logging.WARNING):
        _, right = ask(Blocks, micro_batch_size=sizes)

    assert right
    said = " ".join(record.getMessage() for record in caplog.records)
    said += " ".join(str(record.exc_info) for record in caplog.records)
    assert "group_by(payload)" in said
    assert "join_payloads(payloads)" in said
