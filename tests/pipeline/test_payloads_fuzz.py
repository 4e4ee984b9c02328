"""Any payload, any plan: rows are cut and joined to themselves, or the payload is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from itertools import pairwise
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.payloads.operations import Uncuttable, count, cut, join, rows_of
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.planning.plan import Plan
from tests.fakes import plan, stages
from tests.odd_values import OBJECTS

FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

Pair = namedtuple("Pair", ["ids", "mask"])

DTYPES = [torch.float32, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64]
ARRAY_DTYPES = ["f8", "i2", "?", "U3", "S2", "O", "M8[s]", "c16", [("a", "i4"), ("b", "f8")]]


@st.composite
def columns_of(draw, rows):
    """A payload of `rows` rows that is not made of others."""
    shape = (rows, *draw(st.lists(st.integers(0, 3), max_size=2)))
    kind = draw(st.sampled_from(["tensor", "array", "list", "strided"]))
    if kind == "tensor":
        return (torch.rand(shape) * 5).to(draw(st.sampled_from(DTYPES)))
    if kind == "strided":
        return torch.arange(rows * 6.0).reshape(3, rows, 2).transpose(0, 1)
    if kind == "array":
        return np.zeros(shape, dtype=draw(st.sampled_from(ARRAY_DTYPES)))
    return draw(st.lists(OBJECTS, min_size=rows, max_size=rows))


@st.composite
def payloads(draw):
    """Payloads most of which are made of rows."""
    rows = draw(st.integers(0, 6))
    wrong = draw(st.sampled_from([False, False, False, True]))
    leaves = columns_of(rows) | (OBJECTS if wrong else st.none())
    payload = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Pair, inner, inner),
            st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3),
            st.dictionaries(st.text(max_size=2), inner, max_size=3).map(OrderedDict),
            st.dictionaries(st.text(max_size=2), inner, max_size=3).map(UserDict),
            st.dictionaries(st.text(max_size=2), inner, max_size=3).map(MappingProxyType),
        ),
        max_leaves=5,
    )
    return draw(payload)


def same(left, right):
    """Whether two payloads are alike in type, kind and content."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (torch.Tensor, np.ndarray)):
        alike = (left.dtype, left.shape) == (right.dtype, right.shape)
        if isinstance(left, torch.Tensor):
            return alike and torch.equal(left, right)
        return alike and str(left) == str(right) and left.tobytes() == right.tobytes()
    if isinstance(left, (dict, UserDict, MappingProxyType)):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (tuple, list)):
        return len(left) == len(right) and all(map(same, left, right))
    return left is right


def check_payload(payload, places):
    """It can be cut anywhere and joined again to what it was; or it is said to be uncuttable."""
    try:
        rows = rows_of(payload)
    except Uncuttable:
        assert count(payload) is None
        for act in (lambda: cut(payload, 0, 1), lambda: join([payload])):
            with pytest.raises(Uncuttable):
                act()
        return
    assert count(payload) == rows
    bounds = [0, *sorted({place for place in places if place < rows}), rows]
    pieces = [cut(payload, a, b) for a, b in pairwise(bounds)]
    assert [b - a for a, b in pairwise(bounds)] == [rows_of(piece) for piece in pieces]
    assert same(payload, join(pieces))


@given(payload=payloads() | OBJECTS, places=st.sets(st.integers(1, 5)))
@MANY
def test_a_payload_is_cut_and_joined_to_itself_or_uncuttable(payload, places):
    """Any payload: the identity, or `Uncuttable`, and nothing else."""
    check_payload(payload, places)


@st.composite
def plans_and_rows(draw):
    """Sizes for the three stages, and a number of rows."""
    sizes = [draw(st.integers(1, 12)) for _ in STAGES]
    return Plan(*sizes), draw(st.integers(0, 24))


def nested_columns():
    payload = torch.zeros(2)
    for _ in range(5_000):
        payload = {"a": payload}
    return payload


def quantized(scale):
    return torch.quantize_per_tensor(torch.tensor([scale, 2 * scale]), scale, 0, torch.quint8)


ODD_PAYLOADS = {
    "masked array": lambda: np.ma.array([1, 2, 3, 4], mask=[0, 1, 0, 0]),
    "record array": lambda: np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "sparse columns": lambda: torch.eye(4).to_sparse_csc(),
    "sparse blocks": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "deep columns": nested_columns,
}


@pytest.mark.parametrize("make", ODD_PAYLOADS.values(), ids=ODD_PAYLOADS.keys())
@pytest.mark.filterwarnings("ignore:.*prototype:UserWarning")
@pytest.mark.filterwarnings("ignore:.*beta state:UserWarning")
def test_kinds_of_tensors_that_cannot_be_cut_are_uncuttable(make):
    """A payload that torch or numpy cannot slice or join without loss is refused, not harmed."""
    check_payload(make(), {1})


@pytest.mark.filterwarnings("ignore:.*quantize.*")
def test_quantized_rows_of_another_scale_are_not_squeezed_into_the_first():
    """Joining does not change the numbers of any request."""
    small, large = quantized(0.1), quantized(1.0)

    with pytest.raises(Uncuttable):
        join([small, large])


@given(plans_and_rows())
@FEW
def test_any_plan_gives_each_row_its_own_answer(case):
    """Sizes and rows of any number, none included."""
    sizes, rows = case

    with Pipeline(stages(), PerStage(1, 2, 1)) as pipeline:
        outcomes = pipeline.run(list(range(rows)), sizes)

    assert (list(range(rows)), {}) == (outcomes.answers, outcomes.failures)


def test_a_fault_that_does_not_repeat_beside_a_guilty_neighbour_is_forgiven():
    """A request that fails once is answered, although its neighbour fails always."""
    failed = []

    def inference(batch):
        if 1 in batch:
            raise ValueError
        if not failed:
            failed.append(batch)
            raise ValueError
        return batch

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([0, 1], plan(2))

    assert {1} == outcomes.failures.keys()


def test_a_result_of_inference_that_cannot_be_cut_costs_its_own_request():
    """Inference returns None for the rows of one micro-batch because of one request."""

    def inference(batch):
        return None if 1 in batch else batch

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([0, 1, 2, 3], plan(4, 2, 3))

    assert {1} == outcomes.failures.keys()


def test_inference_never_sees_the_rows_of_the_requests():
    """After a fault inference is called with what preprocess returned, be it None."""
    seen = []

    def inference(batch):
        seen.append(batch)
        if batch is None:
            raise ValueError
        return batch

    functions = stages(lambda _rows: None, inference)
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(["a secret"], plan(1))

    assert ["a secret"] not in seen
    assert {0} == outcomes.failures.keys()
