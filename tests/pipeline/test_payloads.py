"""Cutting and joining payloads."""

from __future__ import annotations

import datetime as dt
import enum
import itertools
import math
import sys
import warnings
from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from micro_batch_handler.pipeline.payloads.ambiguity import (
    holds_places,
    is_ambiguous,
    numbers_beside_rows,
)
from micro_batch_handler.pipeline.payloads.constants import difference
from micro_batch_handler.pipeline.payloads.operations import (
    CUT_AND_JOIN,
    Uncuttable,
    count,
    cut,
    join,
    own,
    pad,
)
from micro_batch_handler.pipeline.payloads.structure import change_leaves

pytestmark = pytest.mark.filterwarnings("ignore:.*beta state:UserWarning")

Pair = namedtuple("Pair", ["ids", "mask"])


class TokenizerBatch(UserDict):
    """Like a tokenizer's output: a mapping that is no dict."""


class Stubborn(dict):
    """A mapping whose constructor takes something else than columns."""

    def __init__(self) -> None:
        super().__init__()


class Task(enum.Enum):
    NER = 1


@dataclass
class Batch:
    """Columns and a constant; `total` is no argument, and construction may happen once only."""

    ids: torch.Tensor
    texts: list
    task: str = "ner"
    total: object = field(init=False, default=None)

    def __post_init__(self):
        assert self.task == "ner"
        self.task = "made"


@dataclass(frozen=True)
class Frozen:
    ids: torch.Tensor
    mask: np.ndarray
    scale: float = 0.5


@dataclass
class ModelOutput(OrderedDict):
    """As in transformers: a dataclass that is a mapping of the fields that are not None."""

    logits: torch.Tensor = None
    loss: torch.Tensor = None
    hidden_states: tuple = None

    def __post_init__(self):
        for each in fields(self):
            if getattr(self, each.name) is not None:
                super().__setitem__(each.name, getattr(self, each.name))
        first = fields(self)[0].name
        if isinstance(self.logits, dict):
            columns, self.logits = self.logits, None
            del self[first]
            for name, column in columns.items():
                setattr(self, name, column)
                super().__setitem__(name, column)


def record(ids, texts):
    made = Batch(ids, texts)
    made.scores, made.total = ids * 2, None  # set by a stage
    return made


CONSTANTS = {
    "none": None,
    "number": 7,
    "texts": ("a", b"b"),
    "kinds": (Task.NER, torch.float16, torch.device("cpu"), np.dtype("f4"), int),
    "labels": {"cat", "dog"},
    "fixed": frozenset({1}),
    "loss": torch.tensor(0.25),
    "mean": np.array(1.5),
    "scalar": np.float32(2),
    "size": torch.Size([3, 224]),
    "options": {"top": 3, "of": {"name": "x"}},
}


def frame(rows, **kwargs):
    return pd.DataFrame(
        {
            "id": range(rows),
            "text": [f"row {i}" for i in range(rows)],
            "kind": pd.Categorical(["a"] * rows, ["b", "a"]),
            "when": pd.to_datetime(["2024-01-01"] * rows),
            "maybe": pd.array([1] * rows, dtype="Int8"),
        },
        **kwargs,
    )


def rows_of_every_kind(rows: int) -> dict[str, object]:
    """One payload of each kind that can be cut and joined."""
    numbers = torch.arange(rows)
    pairs = torch.arange(2 * rows).reshape(rows, 2)
    stubborn = Stubborn()
    stubborn.update(ids=numbers)
    dense = (pairs % 3).double()
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
        "beside constants": {"ids": numbers, **CONSTANTS},
        "tuple with constants": (numbers, "cls", 3, {"deep": (pairs, 1.5)}),
        "dataclass": record(numbers, [str(i) for i in range(rows)]),
        "frozen dataclass": Frozen(numbers, pairs.numpy()),
        "model output": ModelOutput(pairs, torch.tensor(1.5), (pairs, pairs)),
        "deque": deque(range(rows), maxlen=20),
        "coordinates": dense.to_sparse(),
        "hybrid coordinates": dense.to_sparse(1),
        "coordinates not coalesced": torch.sparse_coo_tensor(
            torch.arange(rows).repeat(1, 2), torch.ones(2 * rows), (rows,), check_invariants=False
        ),
        "sparse rows": dense.to_sparse_csr(),
        "frame": frame(rows),
        "frame with names": frame(rows, index=[f"n{i}" for i in range(rows)]),
        "frame with its own numbers": frame(rows, index=pd.RangeIndex(5, 5 + rows, name="at")),
        "series": pd.Series([0.5] * rows, name="score"),
        "levels": pd.Series(
            range(rows), pd.MultiIndex.from_arrays([range(rows), ["x"] * rows], names=["a", "b"])
        ),
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # sparse tensors by rows are new
    KINDS = list(rows_of_every_kind(0))


def same(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        alike = (left.dtype, left.layout, left.shape) == (right.dtype, right.layout, right.shape)
        return alike and torch.equal(left.to_dense(), right.to_dense())
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, (pd.DataFrame, pd.Series)):
        kind = "frame" if isinstance(left, pd.DataFrame) else "series"
        getattr(pd.testing, f"assert_{kind}_equal")(left, right)
        return True
    if isinstance(left, (tuple, list)):
        return all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, (dict, UserDict, Batch, Frozen)):
        one, other = (each if hasattr(each, "keys") else vars(each) for each in (left, right))
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return repr(left) == repr(right)  # with the type, and the bound of a deque


@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.integers(1, 12), data=st.data())
@settings(max_examples=25)
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


@pytest.mark.parametrize(
    "kind", ["dict", "named tuple", "mapping subclass", "dataclass", "model output", "deque"]
)
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
        ({"ids": torch.zeros(2), "name": object()}, "column 'name' is object"),
        ({"ids": [1, 2], "name": (1, range(2))}, "column 1 is range"),
        ({"loss": 1.5, "task": "x"}, "dict without columns of rows"),
        (np.ma.array([1, 2], mask=[0, 1]), "MaskedArray, which is not made of rows"),
        (torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged), "not made of rows"),
        (torch.eye(2).to_sparse_csc(), "not made of rows"),
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
        ([{"a": [1], "b": 1}, {"a": [1], "b": 2}], "column 'b' is no row, and not the same"),
        ([{"a": [1], "b": (1, {1})}, {"a": [1], "b": (1, {2})}], "column 'b' is no row"),
        ([torch.eye(2), torch.eye(2).to_sparse()], "rows of different kinds: .*sparse_coo"),
        ([torch.eye(2).to_sparse(), torch.eye(2).to_sparse(1)], "1 dimensions sparse"),
        ([deque([1], maxlen=3), deque([1], maxlen=4)], "deque with maxlen 3; deque with maxlen 4"),
        ([deque([1, 2], maxlen=3), deque([3, 4], maxlen=3)], "maxlen is 3, and there are 4"),
    ],
)
def test_what_cannot_be_joined_says_why(payloads, says):
    """Payloads of different type, shape, dtype or keys are refused, never promoted."""
    with pytest.raises(Uncuttable, match=says):
        join(payloads)


def alike_but_for(**changes):
    """Two frames of one row that differ in this column."""
    return [pd.DataFrame({"a": [1], **{k: v[i] for k, v in changes.items()}}) for i in range(2)]


@pytest.mark.parametrize(
    "payloads",
    [
        alike_but_for(a=([1], [1.5])),
        alike_but_for(b=(pd.Categorical(["x"]), pd.Categorical(["y"]))),
        alike_but_for(b=(pd.Categorical(["x"], ["x", "y"]), pd.Categorical(["x"], ["y", "x"]))),
        [pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})],
        [pd.DataFrame({"a": [1], "b": [1]}), pd.DataFrame({"b": [1], "a": [1]})],
        [pd.Series([1], name="a"), pd.Series([1], name="b")],
        [pd.Series([1]), pd.Series([1], index=["x"])],
        [pd.Series([True]), pd.Series([1])],
    ],
)
def test_frames_that_pandas_would_change_are_not_joined(payloads):
    """Where columns, names or types differ, the message says how to keep such rows apart."""
    with pytest.raises(Uncuttable, match=r"differ in names.*group_by\(payload\)"):
        join(payloads)


def test_an_index_that_counts_from_0_does_so_in_every_part():
    """Handlers that use `.loc[i]` find the rows of their call."""
    parts = [cut(frame(5), 0, 2), cut(frame(5), 2, 5)]

    assert [0, 2] == [part.loc[0, "id"] for part in parts]
    assert list(range(4)) == join([cut(frame(5), 1, 3)] * 2).index.tolist()


def test_what_is_written_into_a_part_of_a_frame_stays_there():
    """A part is no view of the whole."""
    whole = frame(4)
    part = cut(whole, 0, 2)
    part.loc[0, "id"] = 77

    assert 77 not in whole["id"].to_list()


def test_a_frame_with_more_than_rows_is_not_cut():
    """What hangs on a frame beside its rows may be about all of them."""
    payload = frame(2)
    payload.attrs["rows"] = 2

    assert count(payload) is None


def test_without_pandas_nothing_is_a_frame(monkeypatch):
    """It is not imported to look, and may be half imported by another thread."""
    payload = frame(2)
    for module in (None, object()):
        monkeypatch.setitem(sys.modules, "pandas", module)
        assert count(payload) is None
        assert count(deque([1])) == 1


def test_a_part_has_sets_and_dicts_of_its_own():
    """What a stage does to a constant is not seen in the other parts."""
    payload = {"x": [1, 2], "labels": {"a"}, "options": {"top": 1}}
    part = cut(payload, 0, 1)
    part["labels"].add("b")
    part["options"].clear()

    assert cut(payload, 1, 2) == {"x": [2], "labels": {"a"}, "options": {"top": 1}}


def test_a_dataclass_is_not_made_again():
    """Neither its constructor nor `__post_init__` runs, and what a stage has set is cut too."""
    payload = record(torch.arange(3), ["a", "b", "c"])

    part = cut(payload, 1, 3)

    assert ("made", ["b", "c"], [2, 4]) == (part.task, part.texts, part.scores.tolist())


class Odd:
    """Equal to nothing, and not willing to be asked."""

    def __eq__(self, other):
        raise RuntimeError

    __hash__ = object.__hash__


class OddNumber(int):
    def __eq__(self, other):
        raise RuntimeError

    __hash__ = int.__hash__


class Unread(torch.Tensor):
    """Like a tensor on a device, whose values must not be asked for."""

    device = torch.device("cuda")


def scalar(value):
    return torch.tensor(value).as_subclass(Unread)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (math.nan, float("nan")),
        ("a", b"a"),
        (None, 0),
        (None, [1]),
        ([1], None),
        (torch.tensor(1), torch.tensor(1.0)),
        (torch.tensor(1.0), torch.tensor(2.0)),
        (scalar(1.0), scalar(1.0)),
        (np.array(1), np.array(1.0)),
        ({1}, {1, 2}),
        ((1, 2), (1, 3)),
        ({"a": 1}, {"b": 1}),
        (OddNumber(1), OddNumber(1)),
    ],
    ids=str,
)
def test_constants_that_are_not_surely_the_same_differ(one, other):
    """Type and value count; values on a device are not asked for; comparing never raises."""
    payloads = [{"x": [1], "c": one}, {"x": [1], "c": other}]

    assert "column 'c'" == difference(*payloads)
    assert not difference(payloads[0], dict(payloads[0]))


@pytest.mark.parametrize("payload", [Odd(), {"x": Odd()}, {"x": [1], "y": {}}, [1], torch.ones(2)])
def test_rows_are_not_compared(payload):
    """Only what is no row can differ."""
    assert not difference(payload, payload)
    assert not difference(payload, type(payload)(payload) if isinstance(payload, list) else Odd())


@pytest.mark.parametrize("kind", [each for each in KINDS if "another constructor" not in each])
def test_a_payload_is_filled_up_and_owned_whatever_its_kind(kind):
    """Padding repeats the last row; a copy for the caller alone shares no tensor."""
    payload = rows_of_every_kind(3)[kind]
    filled = pad(payload, 3, 5, CUT_AND_JOIN)
    owned = own(payload)

    assert count(filled) == 5
    assert same(cut(filled, 0, 3), payload)
    assert same(owned, payload)
    tensors = [], []
    for each, found in zip((payload, owned), tensors, strict=True):
        change_leaves(each, lambda leaf, found=found: found.append(leaf) or leaf)
    ids = [{id(t) for t in found if isinstance(t, torch.Tensor)} for found in tensors]
    assert not ids[0] & ids[1]
    assert ids[0] or owned is payload


def test_what_holds_itself_is_left_as_it_is():
    """A dataclass that points to its owner does not end a call."""
    payload = record(torch.arange(1), ["a"])
    payload.total = payload

    assert own(payload) is payload
    assert count(payload) is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"x": [1, 2], "n": 2}, {"column 'n'": 2}),
        (([1, 2], torch.tensor(2), np.int64(2)), {"column 1": 2, "column 2": 2}),
        ({"x": [1, 2], "of": {"a": "xy"}}, {"column 'of'": 1, "column 'of'['a']": 2}),
        ({"x": [1, 2], "n": {1, 2}, "names": ("a", "b")}, {"column 'n'": 2, "column 'names'": 2}),
        ({"x": [1, 2], "n": True, "none": None, "inf": math.inf, "ld": np.longdouble(2)}, {}),
        (record(torch.ones(2), ["a", "b"]), {"column 'task'": 4}),
        ([2, 2], {}),
    ],
)
def test_numbers_beside_the_rows_are_found(payload, expected):
    """Numbers and lengths that may tell how many rows there are."""
    found = dict(numbers_beside_rows(payload))

    assert expected.items() <= found.items()
    assert bool(expected) == bool(found)


@pytest.mark.parametrize(
    ("payload", "holds"),
    [
        (pd.DataFrame({"at": [1, 0, 2]}), True),
        (pd.DataFrame({"x": [5, 6, 7]}), False),
        (pd.DataFrame({"x": [5, 6, 7]}, index=[2, 0, 1]), True),
        (pd.Series([2, 1, 0]), True),
        (deque([0, 1, 2]), True),
        (Batch(torch.arange(3), ["a"] * 3), True),
        (Batch(torch.ones(3), ["a"] * 3), False),
        ([Batch(at, []) for at in range(3)], True),
        (torch.arange(3).to_sparse(), False),
        ({"x": [7, 8, 9], "when": dt.date(2024, 1, 1)}, False),
    ],
)
def test_places_are_found_in_every_kind(payload, holds):
    """Integers from 0 on, one for each row, may be where the rows stood in their call."""
    assert holds == holds_places(payload, 3)


def test_columns_of_a_deque_are_seen():
    """Two items of two rows each may be two columns."""
    assert is_ambiguous(deque([torch.ones(2), torch.ones(2)]), 2)
