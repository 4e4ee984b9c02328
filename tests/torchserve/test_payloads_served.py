"""Handlers whose stages hand on payloads of every kind answer as BaseHandler does."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
import torch
from ts.torch_handler.base_handler import BaseHandler

from tests.pipeline.test_payloads import Frozen, ModelOutput
from tests.torchserve.test_splitting import ask, loaded

BAD = 666
CLIENTS = (8, 7, 5, 1, 8)
SECTIONS = [
    {
        "micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 2},
        "parallelism": {"preprocess": 2, "postprocess": 2},
    },
    {"micro_batch_size": {"preprocess": 1, "inference": 4, "postprocess": 2}},
]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*beta state:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*prototype:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*quantize.*"),
]


@dataclass
class Batch:
    numbers: torch.Tensor
    names: list
    task: str = "cls"
    rows: int = field(init=False, default=0)


@dataclass(slots=True)
class Slotted:
    numbers: torch.Tensor
    task: str = "cls"


class Unknown:
    def __init__(self, values):
        self.values = values


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def counted(values):
    made = Batch(tensor(values), [str(v) for v in values])
    made.rows = len(values)
    return made


def masked(values):
    return np.ma.array(values, mask=[False] * len(values))


def alternating(values):
    """A list or a tensor, by the first row."""
    return list(values) if values[0] % 2 else tensor(values)


def frame(values):
    return pd.DataFrame({"value": values, "name": [str(v) for v in values]})


CARRIED = {
    "number": (lambda v: {"x": tensor(v), "labels": 3}, lambda p: p["x"].tolist()),
    "text": (lambda v: {"x": tensor(v), "task": "cls"}, lambda p: p["x"].tolist()),
    "set": (lambda v: {"x": tensor(v), "of": {"a", "b", "c"}}, lambda p: p["x"].tolist()),
    "tuple": (lambda v: (tensor(v), "cls", None), lambda p: p[0].tolist()),
    "loss": (
        lambda v: ModelOutput(tensor(v), torch.tensor(0.5)),
        lambda p: (p.logits / (2 * p.loss)).tolist(),
    ),
    "dataclass": (
        lambda v: Batch(tensor(v), [str(n) for n in v]),
        lambda p: [n if p.task == "cls" else 0 for n in p.numbers.tolist()],
    ),
    "frozen": (lambda v: Frozen(tensor(v), np.array(v)), lambda p: p.ids.tolist()),
    "slots": (lambda v: Slotted(tensor(v)), lambda p: p.numbers.tolist()),
    "frame": (frame, lambda p: [p.loc[i, "value"] for i in range(len(p))]),
    "series": (lambda v: pd.Series(v, name="value"), lambda p: [p.loc[i] for i in range(len(p))]),
    "deque": (deque, list),
    "coordinates": (
        lambda v: tensor(v)[:, None].to_sparse(),
        lambda p: p.to_dense()[:, 0].tolist(),
    ),
    "sparse rows": (
        lambda v: tensor(v)[:, None].to_sparse_csr(),
        lambda p: p.to_dense()[:, 0].tolist(),
    ),
}
"""Payloads that are cut and joined: made of numbers, and read again."""

WHOLE = {
    "generator": (lambda v: (n for n in v), list),
    "unknown": (Unknown, lambda p: list(p.values)),
    "beside a range": (lambda v: {"x": list(v), "at": range(9)}, lambda p: p["x"]),
    "nested": (
        lambda v: torch.nested.nested_tensor([torch.ones(int(n) % 3 + 1) * n for n in v]),
        lambda p: [float(row[0]) for row in p.unbind()],
    ),
    "quantized": (
        lambda v: torch.quantize_per_tensor(torch.tensor(v).float(), 1.0, 0, torch.qint32),
        lambda p: p.dequantize().tolist(),
    ),
    "masked": (masked, lambda p: p.tolist()),
    "count": (
        lambda v: {"x": list(v), "n": len(v)},
        lambda p: [n + len(p["x"]) - p["n"] for n in p["x"]],
    ),
    "count in a tensor": (
        lambda v: (tensor(v), torch.tensor(len(v))),
        lambda p: (p[0] + len(p[0]) - p[1]).tolist(),
    ),
    "count in a dataclass": (
        counted,
        lambda p: [n + len(p.names) - p.rows for n in p.numbers.tolist()],
    ),
    "twice the count": (
        lambda v: {"x": list(v), "n": 2 * len(v)},
        lambda p: [n + 2 * len(p["x"]) - p["n"] for n in p["x"]],
    ),
    "a text of the rows": (
        lambda v: {"x": list(v), "kinds": "".join("ab"[int(n) % 2] for n in v)},
        lambda p: [n if k == "ab"[int(n) % 2] else -1 for n, k in zip(*p.values(), strict=True)],
    ),
    "names in a tuple": (
        lambda v: (list(v), tuple(str(n) for n in v)),
        lambda p: [n if float(name) == n else -1 for n, name in zip(*p, strict=True)],
    ),
    "a set of the rows": (
        lambda v: (list(v), set(v)),
        lambda p: [n if {*p[0]} == p[1] else -1 for n in p[0]],
    ),
    "places in a frame": (
        lambda v: frame(v).sort_values("value", ascending=False),
        lambda p: p.sort_index()["value"].tolist(),
    ),
}
"""Payloads that are not."""


class Handler(BaseHandler):
    """Doubles numbers; hands them on as one kind."""

    kind = "number"

    def initialize(self, context):
        self.calls = deque()

    def preprocess(self, data):
        values = [row["body"] for row in data]
        if BAD in values:
            raise ValueError(values)
        return self.make(values)

    def inference(self, payload):
        values = self.read(payload)
        self.calls.append(len(values))
        if BAD + 1 in values:
            raise ValueError(values)
        return self.make([2 * value for value in values])

    def postprocess(self, payload):
        return [int(value) for value in self.read(payload)]

    def make(self, values):
        return (CARRIED | WHOLE)[self.kind][0](values)

    def read(self, payload):
        return (CARRIED | WHOLE)[self.kind][1](payload)


def handler_of(kind, section, base=Handler):
    return loaded(type("Kind", (base,), {"kind": kind, "thread_safe": True}), section)


def check(handler, bad=(), batches=CLIENTS):
    """Every request of several batches has the answer of BaseHandler, or its own error."""
    for batch, clients in enumerate(batches):
        numbers = [100 * batch + client + 1 for client in range(clients)]
        for place, number in enumerate(bad):
            numbers[(3 * place + batch) % clients] = number
        found, statuses = ask(handler, numbers)
        failed = [number in (BAD, BAD + 1) for number in numbers]
        assert [200 if not bad else status for status, bad in zip(statuses, failed, strict=True)]
        for number, answer, status in zip(numbers, found, statuses, strict=True):
            assert (status != 200) == (number in (BAD, BAD + 1)), (batch, number, status, answer)
            assert status != 200 or answer == 2 * number, (batch, number, answer)


@pytest.mark.parametrize("section", SECTIONS, ids=["2-4-2", "1-4-2"])
@pytest.mark.parametrize("kind", CARRIED)
def test_payloads_of_every_kind_are_cut_and_joined(kind, section, caplog):
    """With sizes for each stage everybody gets their own answer, and calls have these sizes."""
    handler = handler_of(kind, section)
    check(handler)
    check(handler, (BAD, BAD + 1))
    handler.calls.clear()
    check(handler, batches=[8])
    handler.close()

    assert [4, 4] == list(handler.calls)
    assert "same size" not in caplog.text
    assert "whole batches" not in caplog.text


@pytest.mark.parametrize("section", SECTIONS, ids=["2-4-2", "1-4-2"])
@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_be_cut_is_handed_on_as_it_is(kind, section, caplog):
    """Sizes that need no cutting are used instead, which is said once, with the ways out."""
    if kind == "twice the count" and section is SECTIONS[1]:
        pytest.skip("of calls with one row, a 2 may be anything")
    handler = handler_of(kind, section)
    with caplog.at_level(logging.WARNING):
        check(handler)
        check(handler, (BAD, BAD + 1))
        check(handler, batches=[8] * 5)
    handler.calls.clear()
    check(handler, batches=[8])
    handler.close()

    assert [4, 4] == list(handler.calls)
    (said,) = [text for text in caplog.messages if "same size" in text]
    assert "cut_payload(payload, start, stop) and join_payloads(payloads)" in said
    assert "whole batches" not in caplog.text


class Losses(Handler):
    """Each call has a loss of its own, and the stage after it must get that one."""

    kind = "loss"

    def initialize(self, context):
        super().initialize(context)
        self.read_by = deque()

    def make(self, values):
        return ModelOutput(tensor(values), torch.tensor(float(sum(values))))

    def read(self, payload):
        values = payload.logits.tolist()
        self.read_by.append((values, payload.loss.item()))
        return values


def test_parts_with_other_constants_are_called_apart(caplog):
    """No call gets another call's loss, none is made twice, and each stage says it once."""
    handler = handler_of("loss", {"micro_batch_size": {"preprocess": 2, "inference": 4}}, Losses)
    check(handler, batches=(8, 7, 8))
    handler.calls.clear(), handler.read_by.clear()
    with caplog.at_level(logging.WARNING):
        check(handler, batches=(8, 8))
    handler.close()

    assert [2] * 8 == list(handler.calls)
    for values, loss in handler.read_by:
        assert loss == sum(values)
    assert len(handler.read_by) == 16
    said = sorted(text for text in caplog.messages if "called apart" in text)
    assert ["inference", "postprocess"] == [text.split()[0] for text in said]
    assert all("column 'loss'" in text for text in said)
    assert "failed" not in caplog.text


def test_a_part_gets_what_was_computed_for_its_whole_call():
    """Where a call's rows are cut, each part gets the loss of that call."""
    section = {"micro_batch_size": {"preprocess": 4, "inference": 4, "postprocess": 2}}
    handler = handler_of("loss", section, Losses)
    check(handler, batches=(8, 7, 8))
    handler.read_by.clear()
    check(handler, batches=[8])
    handler.close()

    calls = {values[0]: loss for values, loss in handler.read_by if len(values) == 4}
    parts = {values[0]: loss for values, loss in handler.read_by if len(values) == 2}
    assert {1: 10, 5: 26} == calls
    assert {2: 20, 6: 20, 10: 52, 14: 52} == parts


class Changing(Handler):
    """Now a list, now a tensor, now a mapping, now nothing that can be cut."""

    def make(self, values):
        ways = [list, tensor, lambda v: {"x": list(v)}, tuple]
        return ways[int(values[0]) // 2 % len(ways)](values)

    def read(self, payload):
        found = payload["x"] if isinstance(payload, dict) else payload
        return [float(value) for value in found]


def test_payloads_whose_kind_changes_from_call_to_call_are_answered():
    """What cannot be joined or cut is called in another way, for everybody."""
    for section in SECTIONS:
        handler = handler_of("number", section, Changing)
        check(handler)
        check(handler, (BAD, BAD + 1))
        handler.close()


class Grouped(Handler):
    """Rows of two shapes, kept apart by a key."""

    def group_by(self, payload):
        return [int(value) % 2 for value in self.read(payload)]

    def inference(self, payload):
        assert len({value % 2 for value in self.read(payload)}) == 1
        return super().inference(payload)


@pytest.mark.parametrize(
    "kind", ["text", "loss", "frame", "dataclass", "count", "a set of the rows"]
)
def test_rows_of_different_keys_are_cut_out_of_every_kind(kind):
    """With `group_by`, too, constants go along, and what counts its rows is never cut."""
    handler = handler_of(kind, SECTIONS[0], Grouped)
    check(handler)
    check(handler, (BAD, BAD + 1))
    handler.close()


@pytest.mark.parametrize("kind", CARRIED)
def test_calls_are_filled_up_whatever_the_kind(kind):
    """With `allowed_sizes` a payload is filled up with its last row, and cut again."""
    section = {"micro_batch_size": 8, "allowed_sizes": [4, 8]}
    handler = handler_of(kind, section)
    check(handler, batches=(8, 7, 3, 1))
    handler.close()

    assert {4, 8} == set(handler.calls)


class Narrow(Handler):
    """Has memory for two rows."""

    def inference(self, payload):
        if len(self.read(payload)) > 2:
            raise MemoryError
        return super().inference(payload)


@pytest.mark.parametrize("kind", ["text", "count", "a set of the rows", "unknown"])
def test_less_memory_cuts_no_payload_that_may_not_be_cut(kind):
    """With one size for all stages, rows that must be called in parts start again if need be."""
    handler = handler_of(kind, {"micro_batch_size": 4}, Narrow)
    check(handler)
    check(handler, (BAD, BAD + 1))
    handler.close()


def test_a_number_that_is_one_more_than_once_is_a_constant(caplog):
    """Where rows are trusted to be rows, a number that another call has cleared goes along."""
    handler = handler_of("number", SECTIONS[1])
    check(handler, batches=(8, 7, 3, 3, 8))
    handler.close()

    assert "same size" not in caplog.text


class Naming(BaseHandler):
    """Tells the stages after it which rows are bad, by something beside the rows."""

    def initialize(self, context):
        pass

    def preprocess(self, data):
        bad = [at for at, row in enumerate(data) if row["body"] == BAD]
        names = [str(row["body"]) for row in data]
        return {"x": tensor([row["body"] for row in data]), "bad": self.tell(bad, names)}

    def inference(self, payload):
        return {**payload, "x": payload["x"] * 2}

    def postprocess(self, payload):
        rows = enumerate(payload["x"].tolist())
        return ["bad" if self.is_bad(payload["bad"], at) else value for at, value in rows]


TELLS = {
    "a set": (lambda bad, _: set(bad), lambda told, at: at in told),
    "a dict": (lambda bad, _: dict.fromkeys(bad, "bad"), lambda told, at: at in told),
    "a tuple": (lambda bad, _: tuple(bad), lambda told, at: at in told),
    "a number": (lambda bad, _: bad[0] if bad else -1, lambda told, at: at == told),
    "a number or None": (lambda bad, _: bad[0] if bad else None, lambda told, at: at == told),
    "a tensor": (lambda bad, _: torch.tensor((bad or [-1])[0]), lambda told, at: at == int(told)),
    "a text": (lambda _, names: ",".join(names), lambda t, at: t.split(",")[at] == str(BAD)),
}


@pytest.mark.parametrize("sizes", [(2, 4, 2), (8, 4, 4), (2, 4, 4), "auto"])
@pytest.mark.parametrize("kind", TELLS)
def test_what_names_rows_of_its_call_never_names_those_of_another(kind, sizes):
    """It is mostly empty, and the first time that it is not, no wrong answer leaves."""
    tell, is_bad = (staticmethod(each) for each in TELLS[kind])
    named = type("Named", (Naming,), {"tell": tell, "is_bad": is_bad})
    if sizes != "auto":
        sizes = dict(zip(("preprocess", "inference", "postprocess"), sizes, strict=True))
    handler = loaded(named, {"micro_batch_size": sizes}, batch_size=8)
    for batch in range(24):
        numbers = [8 * batch + at for at in range((8, 7, 5, 8)[batch % 4])]
        if batch > 5:
            numbers[batch % 5] = BAD
        expected = ["bad" if number == BAD else 2 * number for number in numbers]
        assert (expected, [200] * len(numbers)) == ask(handler, numbers)
    handler.close()


@dataclass
class Factor:
    held: dict


FACTORS = {
    "a tensor": (lambda: torch.tensor(1.0), lambda it: it.add_(1)),
    "an array": (lambda: np.array(1.0), lambda it: np.add(it, 1, out=it)),
    "a dict in a dict": (lambda: {"a": {"k": 1.0}}, lambda it: it["a"].update(k=it["a"]["k"] + 1)),
    "a dataclass": (lambda: Factor({"k": 1.0}), lambda it: it.held.update(k=it.held["k"] + 1)),
}


class Growing(BaseHandler):
    """Changes in postprocess what came beside the rows, and answers by it."""

    def initialize(self, context):
        pass

    def preprocess(self, data):
        return {"x": tensor([row["body"] for row in data]), "factor": self.make()}

    def inference(self, payload):
        return payload

    def postprocess(self, payload):
        self.grow(payload["factor"])
        same = str(payload["factor"]) == str(self.grown())
        return [value if same else "changed" for value in payload["x"].tolist()]


@pytest.mark.parametrize("kind", FACTORS)
def test_each_part_has_its_own_of_what_goes_along(kind):
    """A stage may change it: its neighbours, which got the same, do not see that."""
    make, grow = FACTORS[kind]

    def grown(_self):
        made = make()
        grow(made)
        return made

    attributes = {"make": staticmethod(make), "grow": staticmethod(grow), "grown": grown}
    section = {"micro_batch_size": {"preprocess": 8, "inference": 4, "postprocess": 2}}
    handler = loaded(type("Grown", (Growing,), attributes), section, batch_size=8)
    for batch in range(6):
        numbers = [8 * batch + at for at in range((8, 7, 8)[batch % 3])]
        assert (numbers, [200] * len(numbers)) == ask(handler, numbers)
    handler.close()


class Unspeakable(str):
    """A text that does not tell its length."""

    __slots__ = ()

    def __len__(self):
        raise ValueError("how long is a piece of string")


BESIDE = {
    "no memory": lambda: torch.tensor(1.0, device="meta"),
    "a text without length": lambda: Unspeakable("a"),
    "many labels": lambda: {number: str(number) for number in range(1000)},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_cannot_be_looked_at_costs_no_request(kind):
    """What the package finds out for itself fails nobody."""

    class Odd(Naming):
        def tell(self, bad, names):
            return BESIDE[kind]()

        def is_bad(self, told, at):
            return False

    for section in SECTIONS:
        handler = loaded(Odd, section, batch_size=8)
        for batch in range(6):
            numbers = [8 * batch + at for at in range((8, 7, 8)[batch % 3])]
            assert ([2 * n for n in numbers], [200] * len(numbers)) == ask(handler, numbers)
        handler.close()
