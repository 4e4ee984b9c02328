"""Answers, encoded inside the lanes."""

from __future__ import annotations

import enum
import io
import json
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import date

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ts.protocol.otf_message_handler import create_predict_response

from micro_batch_handler.torchserve.wire import encode as module
from micro_batch_handler.torchserve.wire.encode import encode, is_json
from tests.fakes import fake_context, parse_predict_response


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    HIGH = 3


class Planet(str, enum.Enum):
    """Its value is not what `json.dumps` sees of it."""

    EARTH = "earth", "third"

    def __new__(cls, text, value):
        planet = str.__new__(cls, text)
        planet._value_ = value
        return planet


class Lazy(list):
    """Has no items until it is iterated over."""

    def __iter__(self):
        return iter([1, 2])

    def __len__(self):
        return 2


@dataclass
class Point:
    x: int


Pair = namedtuple("Pair", "first second")

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Lone surrogates too, which JSON can escape."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | ANY_TEXT
    | st.just("null")
    | st.builds(Text, st.text())
    | st.sampled_from([Level.HIGH, Planet.EARTH, 2**64, -(2**63) - 1])
    | st.builds(np.float64, st.floats())
    | st.builds(np.str_, st.text())
)
KEYS = ANY_TEXT | st.none() | st.booleans() | st.floats() | st.integers() | st.just(Level.HIGH)


def containers(inner):
    return (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(KEYS, inner)
        | st.dictionaries(st.text(), inner).map(OrderedDict)
        | st.builds(Pair, inner, inner)
    )


SENDABLE = st.recursive(SCALARS, containers).filter(is_json)


@pytest.fixture(params=["orjson", "json"])
def library(request, monkeypatch):
    """The test runs with orjson, and as where it is not installed."""
    if request.param == "json":
        monkeypatch.setattr(module, "orjson", None)
    elif module.orjson is None:
        pytest.skip("orjson is not installed")


def sent(answer) -> bytes:
    """The body that TorchServe's worker sends for this answer."""
    context = fake_context(1)
    message = create_predict_response([answer], context.request_ids, "ok", 200, context)
    ((code, body),) = parse_predict_response(bytes(message))
    assert code == 200
    return body


def parsed(body) -> str:
    """What a client reads, with the difference between 1, 1.0, -0.0 and NaN."""
    return repr(json.loads(body))


@given(SENDABLE)
def test_clients_read_the_same_json(answer):
    """Whatever answer TorchServe can send, its client reads the same values."""
    assert parsed(sent(answer)) == parsed(encode(answer))


@given(SENDABLE)
def test_clients_read_the_same_json_without_orjson(answer):
    """So do clients of a server that has only the standard library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "orjson", None)
        assert parsed(sent(answer)) == parsed(encode(answer))


@given(st.binary() | st.binary().map(bytearray) | st.text() | st.builds(Text, st.text()))
def test_text_and_bytes_are_sent_as_ever(answer):
    """Text goes out as UTF-8, bytes as they are."""
    assert sent(answer) == sent(encode(answer))
    assert not is_json(answer)


@pytest.mark.usefixtures("library")
def test_json_is_compact():
    """No byte is spent on layout, and text is UTF-8."""
    assert encode({"a": [1, None, 0.5], "ü": True}).replace(b"\\u00fc", "ü".encode()) == (
        '{"a":[1,null,0.5],"ü":true}'.encode()
    )


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("answer", [Lazy(), [Lazy()], {"a": {1: "a", "1": "b"}}, [Planet.EARTH]])
def test_odd_classes_are_asked_the_same_questions(answer):
    """A list that makes up its items and keys that become equal are sent as TorchServe does."""
    assert parsed(sent(answer)) == parsed(encode(answer))


def test_tensors_are_saved_as_torchserve_does():
    """A client loads the same tensor."""
    assert torch.equal(torch.arange(3), torch.load(io.BytesIO(encode(torch.arange(3)))))


NUMPY = [
    np.float32(0.1),
    np.float16(0.1),
    np.int64(-3),
    np.uint8(3),
    np.bool_(True),
    np.arange(6.0).reshape(2, 3),
    np.arange(6)[::2],
    np.arange(6).reshape(2, 3).T,
    np.array(7),
    np.zeros((0, 3)),
    np.array([0.1, 0.2], dtype=np.float32),
    np.array([1, 2], dtype=">i4"),
    np.array([1.5, 2], dtype=np.float16),
    np.array([True, False]),
    np.array(["a", "ü"]),
    np.array([1, None, "a", 2**70], dtype=object),
    np.array([np.nan, np.inf, -np.inf, 1]),
    np.array([np.nan, None], dtype=object),
    np.ma.array([1, 2], mask=[False, True]),
]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("value", NUMPY, ids=repr)
@pytest.mark.parametrize("around", [lambda v: v, lambda v: [v, 1], lambda v: {"a": (v, None)}])
def test_numpy_is_sent_as_its_python_values(value, around):
    """Arrays and scalars, inside of others too, are sent as `tolist()` gives them."""
    assert parsed(encode(around(value))) == parsed(json.dumps(around(value.tolist())))


UNSENDABLE = [
    {1, 2},
    object(),
    [torch.zeros(1)],
    {(1, 2): 3},
    [b"raw"],
    [bytearray(b"raw")],
    [memoryview(b"raw")],
    [1j],
    [Ellipsis],
    # orjson takes these, TorchServe does not
    [uuid.UUID(int=1)],
    [date(2024, 2, 29)],
    [Point(1)],
    [enum.Enum("Plain", "ONE").ONE],
    # NumPy's, which have no JSON form that everybody would expect
    np.datetime64("2024-02-29"),
    [np.timedelta64(1, "s")],
    {"a": np.array([1j])},
    np.zeros(2, dtype=[("x", "i4")]),
    np.array([b"a"]),
    pytest.param(
        np.zeros(2, dtype=np.longdouble),
        marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="it is a double"),
    ),
    {np.int64(1): 2},
]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("answer", UNSENDABLE, ids=lambda answer: type(answer).__name__)
def test_what_json_has_not_is_a_type_error(answer):
    """An answer that TorchServe could not send, or only as something else, is an error here."""
    with pytest.raises(TypeError):
        encode(answer)


def test_text_that_is_not_unicode_is_an_error():
    """A lone surrogate as the whole answer would end TorchServe's worker."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        encode("\ud800")


@pytest.mark.usefixtures("library")
def test_circles_and_depths_are_errors_too():
    """So are answers that contain themselves or nest too deeply."""
    circle: list = []
    circle.append(circle)
    arrays = np.array([None], dtype=object)
    arrays[0] = arrays
    deep: list = []
    for _ in range(100_000):
        deep = [deep]

    for answer in (circle, {"a": circle}, deep, arrays):
        with pytest.raises((ValueError, RecursionError)):
            encode(answer)


@pytest.mark.usefixtures("library")
def test_depth_that_torchserve_can_send_is_sent():
    """What is too deep for orjson, `json` still writes."""
    deep = json.loads("[" * 300 + "]" * 300)

    assert json.loads(encode(deep)) == deep
