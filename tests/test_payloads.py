"""Cutting and joining payloads."""

from __future__ import annotations

import itertools
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_batch_handler.pipeline.payloads import Uncuttable, count, cut, join

Pair = namedtuple("Pair", ["ids", "mask"])


class TokenizerBatch(UserDict):
    """Like a tokenizer's output: a mapping that is no dict."""


class Stubborn(dict):
    """A mapping whose constructor takes something else than columns."""

    def __init__(self) -> None:
        super().__init__()


def rows_of_every_kind(rows: int) -> dict[str, object]:
    """One payload of each kind that can be cut and joined."""
    numbers = torch.arange(rows)
    pairs = torch.arange(2 * rows).reshape(rows, 2)
    stubborn = Stubborn()
    stubborn.update(ids=numbers)
    return {
        "list": [f"row {i}" for i in range(rows)],
        "tensor": pairs,
        "array": pairs.numpy(),
        "dict": {"ids": numbers, "mask": pairs},
        "tuple of columns": (numbers, [str(i) for i in range(rows)]),
        "named tuple": Pair(numbers, pairs),
        "mapping subclass": TokenizerBatch(ids=numbers, mask=pairs),
        "mapping with another constructor": stubborn,
        "nested": {"inputs": (numbers, {"deep": pairs.numpy()}), "labels": None},
    }


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return np.array_equal(left, right)
    if isinstance(left, (dict, UserDict)):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, tuple):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


@pytest.mark.parametrize("kind", rows_of_every_kind(0))
@given(rows=st.integers(1, 12), data=st.data())
def test_joining_the_pieces_gives_the_payload_back(kind, rows, data):
    """Whatever the payload and wherever it is cut, the joined pieces equal it."""
    payload = rows_of_every_kind(rows)[kind]
    limits = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows)))})
    pieces = [cut(payload, *pair) for pair in itertools.pairwise(limits)]

    joined = join(pieces)

    assert same(payload, joined)
    assert [count(piece) for piece in pieces] == [
        stop - start for start, stop in itertools.pairwise(limits)
    ]


@pytest.mark.parametrize("kind", ["dict", "named tuple", "mapping subclass"])
def test_a_payload_keeps_its_type(kind):
    """Cutting and joining keep the payload's own type where its constructor allows."""
    payload = rows_of_every_kind(4)[kind]

    pieces = [cut(payload, 0, 1), cut(payload, 1, 4)]

    assert {type(payload)} == {type(piece) for piece in [*pieces, join(pieces)]}


def test_a_mapping_that_cannot_be_rebuilt_becomes_a_dict():
    """A mapping subclass whose constructor takes no columns is cut into plain dicts."""
    payload = rows_of_every_kind(2)["mapping with another constructor"]

    assert type(cut(payload, 0, 1)) is dict


def test_cut_tensors_share_memory():
    """Cutting a tensor copies nothing."""
    tensor = torch.zeros(4, 2)

    cut(tensor, 2, 4)[:] = 1

    assert tensor.sum() == 4


@pytest.mark.parametrize(
    ("payload", "rows"),
    [
        ([1, 2, 3], 3),
        (torch.zeros(2, 5), 2),
        (np.zeros((4, 1)), 4),
        ({"a": [1, 2], "b": torch.zeros(2)}, 2),
        (([1, 2], None), 2),
        ({"a": [1, 2], "b": [1, 2, 3]}, None),
        (torch.tensor(1.0), None),
        ("abc", None),
        ({}, None),
        (object(), None),
        ((x for x in "abc"), None),
    ],
)
def test_rows_are_counted_where_that_is_certain(payload, rows):
    """Rows are counted in lists, tensors, arrays and columns that agree, and nowhere else."""
    assert rows == count(payload)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ("text", "str, which is not made of rows"),
        (torch.tensor(1.0), "torch.Tensor, which is not made of rows"),
        ({"ids": torch.zeros(2), "name": "x"}, "column 'name' is str"),
        ({"ids": [1, 2], "mask": [1]}, "'ids' has 2, 'mask' has 1"),
        ({}, "dict without columns"),
        ((x for x in "ab"), "generator, which is not made of rows"),
    ],
)
def test_what_cannot_be_cut_says_why(payload, says):
    """A payload that is not made of rows is refused with the part that is not."""
    with pytest.raises(Uncuttable, match=says):
        cut(payload, 0, 1)


@pytest.mark.parametrize(
    ("payloads", "says"),
    [
        ([torch.zeros(1, 3), torch.zeros(1, 4)], r"float32 \(3,\) on cpu; torch.float32 \(4,\)"),
        ([torch.zeros(1), torch.zeros(1, dtype=torch.int64)], "rows of different kinds"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], "rows of different kinds"),
        ([[1], torch.zeros(1)], "several types: list, torch.Tensor"),
        ([{"a": [1]}, {"b": [1]}], "different columns"),
        ([{"a": [1], "b": None}, {"a": [1], "b": [2]}], "column 'b' has several types"),
    ],
)
def test_what_cannot_be_joined_says_why(payloads, says):
    """Payloads of different type, shape, dtype or keys are refused, never promoted."""
    with pytest.raises(Uncuttable, match=says):
        join(payloads)
