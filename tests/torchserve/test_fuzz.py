"""Hostile requests, exceptions and results: only clean outcomes.

Every batch passes through TorchServe's own code on the way in and out (harness/service.py),
and the response is taken apart by a parser that believes no length.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import string

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ts.utils.util import PredictionException

from harness.service import FakeMetrics, predict, quiet, service_of
from harness.wire import DEADLINE_HEADER, Request, Wrong, parse
from micro_batch_handler.config import STAGES
from micro_batch_handler.pipeline.payloads.operations import count
from tests.fakes import Plain
from tests.odd_values import ANY_TEXT, NUMBERS, OBJECTS, SCALARS

FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))

SIZES = {
    "regrouped": {"preprocess": 1, "inference": 4, "postprocess": 3},
    "equal": {"preprocess": 3, "inference": 3, "postprocess": 3},
    "inline": {"preprocess": 32, "inference": 32, "postprocess": 32},
}
DECODES = "TS_DECODE_INPUT_REQUEST"
"""What the frontend calls `decode_input_request` for its workers."""

ERROR = "an error"
"""Stands for the body of an error, which is checked by itself."""


# -- handlers, each with what it must answer -------------------------------------------------------


class Handler(Plain):
    """Passes the bodies on; `due` says what the answer to one of them must be."""


def encoded(value):
    """The body that TorchServe makes of an answer, as `read` if JSON; an error if there is none."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    try:
        return value.encode() if isinstance(value, str) else read(json.dumps(value, indent=2))
    except Exception:
        return ERROR


def read(body):
    """What a client reads in JSON, with the difference between 1, 1.0, -0.0 and NaN."""
    return repr(json.loads(body))


class Echo(Handler):
    """Answers what it was sent."""

    @staticmethod
    def due(value):
        body = encoded(value)
        return {500 if body is ERROR else 200}, body


class Arithmetic(Handler):
    """Computes with numbers that the client names."""

    def preprocess(self, data):
        return [list(row["body"]["numbers"]) for row in data]

    def inference(self, batch):
        return [[2 * number + 1 for number in numbers] for numbers in batch]

    def postprocess(self, outputs):
        return [{"mean": sum(numbers) / len(numbers), "all": numbers} for numbers in outputs]

    @staticmethod
    def due(value):
        try:
            numbers = list(value["numbers"])
        except Exception:
            return {400}, ERROR
        try:
            results = [2 * number + 1 for number in numbers]
            body = encoded({"mean": sum(results) / len(results), "all": results})
        except Exception:
            body = ERROR
        return {500 if body is ERROR else 200}, body


class Obedient(Handler):
    """Sets status, phrase, content type and headers as the client wishes."""

    def postprocess(self, outputs):
        for place, wish in enumerate(outputs):
            self.context.set_response_status(wish["code"], wish["phrase"], place)
            self.context.set_response_content_type(place, wish["type"])
            for name, value in wish["headers"].items():
                self.context.set_response_header(place, name, value)
        return [wish["phrase"] for wish in outputs]

    @staticmethod
    def due(wish):
        try:
            headers = {"content-type": wish["type"], **wish["headers"]}
            legal = type(wish["code"]) is int and 200 <= wish["code"] < 600
            legal &= headers["content-type"] is None or headers["content-type"].isascii()
            token = f"[{re.escape(string.ascii_letters + string.digits)}!#$%&'*+.^_`|~-]+"
            legal &= all(re.fullmatch(token, name) for name in headers)
            legal &= all(value.isprintable() for value in headers.values())
            body = encoded(wish["phrase"])
        except Exception:
            return {500}, ERROR
        return ({wish["code"]}, body) if legal and body is not ERROR else ({500}, ERROR)


class Refusing(Handler):
    """Refuses each request with the client's own words and number."""

    def inference(self, batch):
        for value in batch:
            raise PredictionException(value["message"], value["code"])
        return batch

    @staticmethod
    def due(value):
        try:
            code, _ = value["code"], value["message"]
        except Exception:
            return {500}, ERROR
        return {code if type(code) is int and 200 <= code < 600 else 500}, ERROR


@pytest.fixture(scope="module", autouse=True)
def collecting_is_quick():
    """What torch has imported is not counted again for each call that runs out of memory."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", params=[*SIZES, "raw", "sorted"])
def services(request):
    """A service for each handler, all with the same sizes; with `raw` we decode the bodies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DECODES, str(request.param != "raw").lower())
        sizes = SIZES.get(request.param, SIZES["regrouped"])
        section = {"micro_batch_size": sizes, "parallelism": {"preprocess": 2}}
        yield from handlers_with({**section, "sort_by_length": request.param == "sorted"})


def handlers_with(section):
    """The services, and their end."""
    kinds = (Echo, Arithmetic, Obedient, Refusing)
    handlers = {kind: kind() for kind in kinds}
    with quiet():
        yield {
            kind: service_of(handler, {"micro_batching": section}, FakeMetrics())
            for kind, handler in handlers.items()
        }
    for handler in handlers.values():
        handler.close()


def served(handler, requests, sizes="regrouped", **section):
    """The answers of a handler that lives for one batch."""
    model_yaml = {"micro_batching": {"micro_batch_size": SIZES[sizes], **section}}
    with quiet():
        service = service_of(handler, model_yaml, FakeMetrics())
        try:
            return sent(service, requests)
        finally:
            handler.close()


def sent(service, requests):
    """The answers to these requests, each of which is checked to be well formed."""
    with quiet():
        code, message, answers = predict(service, requests)
    assert (200, "Prediction success") == (code, message)
    assert [request.id for request in requests] == [answer.id for answer in answers]
    for answer in answers:
        assert 200 <= answer.code < 600
        assert re.fullmatch("[ -~]*", answer.phrase)
        assert answer.content_type.isascii()
        assert all(value.isprintable() for pair in answer.headers.items() for value in pair)
    return answers


def check(answer, codes, body):
    """The answer is what it must be; an error has the common body and nothing but."""
    assert answer.code in codes
    if body is not ERROR:
        assert body == (read(answer.body) if isinstance(body, str) else answer.body)
        return
    error = json.loads(answer.body)
    assert ["code", "message", "type"] == sorted(error)
    assert error["code"] == answer.code
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert "application/json" == answer.content_type


# -- requests --------------------------------------------------------------------------------------

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
WISHES = st.fixed_dictionaries(
    {
        "code": st.one_of(st.integers(150, 700), st.sampled_from([200, 404, 599]), SCALARS),
        "message": VALUES,
        "phrase": st.one_of(PRINTABLE, st.sampled_from(["a\r\nb: c", "\u2028", "\x00"]), SCALARS),
        "type": st.one_of(st.just("text/plain"), PRINTABLE, SCALARS),
        "headers": st.one_of(
            st.dictionaries(
                st.one_of(st.sampled_from(["x-a", "content-type", "a b", "x\r\ny: z"]), ANY_TEXT),
                st.one_of(PRINTABLE, st.sampled_from(["1\r\nset-cookie: a=b", "é"]), SCALARS),
                max_size=3,
            ),
            SCALARS,
        ),
        "numbers": st.one_of(st.lists(NUMBERS, max_size=5), VALUES),
    }
)
LITERALS = [
    b"",
    b" ",
    b"NaN",
    b"-Infinity",
    b'{"numbers": [NaN, Infinity, 1e999]}',
    b'{"numbers": [1], "numbers": [2, 3]}',
    b'{"numbers": [1' + b"0" * 5000 + b"]}",
    b'{"numbers": [1' + b"0" * 4000 + b"]}",
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000,
    b"[" * 50 + b"]" * 50,
    b'"\\ud800"',
    b'{"\\udfff": "\\ud800"}',
    b'"\\u0000"',
    b'"\xed\xa0\x80"',
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'"' + b"x" * 1_000_000 + b'"',
    b"1" * 1_000_000,
    b"{'numbers': [1]}",
    b'{"numbers": [1]}x',
    b'{"numbers": ',
]
BODIES = st.one_of(
    st.binary(),
    st.sampled_from(LITERALS),
    st.one_of(VALUES, WISHES).map(lambda value: json.dumps(value).encode()),
    st.one_of(VALUES, WISHES).map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
)
# The frontend reads headers as Latin-1 and writes them as UTF-8, so they are always valid text.
HEADER_TEXT = st.text(st.characters(max_codepoint=255))
DEADLINES = st.one_of(
    st.sampled_from(
        ["0", "-1", "60000", " 60000\t", "nan", "-inf", "1e999", "-1e308", "", "1_0e9"]
    ),
    HEADER_TEXT,
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(st.just(DEADLINE_HEADER), DEADLINES),
        st.tuples(st.sampled_from(["content-type", "body", "explain", "x-a"]), HEADER_TEXT),
        st.tuples(HEADER_TEXT, HEADER_TEXT),
    ).filter(lambda header: header[1] != "True"),
    max_size=3,
)
TYPES = st.one_of(
    st.just("application/json"),
    st.sampled_from(["text/plain", "application/octet-stream", "", "application/json; a=b"]),
    HEADER_TEXT,
)
NAMES = st.one_of(st.just("body"), st.just("body"), st.sampled_from(["data", "", DEADLINE_HEADER]))
HOSTILE = st.builds(Request, st.just(""), BODIES, content_type=TYPES, headers=HEADERS, name=NAMES)
PLAIN = st.builds(Request, st.just(""), BODIES)


def type_of(request):
    """The body's content type, which the handler has to look for if TorchServe does not decode."""
    headers = dict(request.headers)
    if request.name not in headers:
        return request.content_type
    types = [value for name, value in headers.items() if name.lower() == "content-type"]
    return types[0].split(";")[0] if types and request.name == "body" else ""


def value_of(request):
    """What TorchServe or we make of a body; an error if it is no JSON, and refused for that."""
    ours = type_of(request)
    servers = [request.content_type] if os.environ[DECODES] == "true" else []
    for kind in (*servers, ours):
        with contextlib.suppress(Exception):
            if kind == "application/json":
                return json.loads(request.body.decode())
            if kind.startswith("text"):
                return request.body.decode()
    return ERROR if ours == "application/json" and request.body else request.body


def due(kind, request):
    """The statuses that a request may end with, and its body."""
    value = value_of(request)
    codes, body = ({400}, ERROR) if value is ERROR else kind.due(value)
    if request.name != "body":
        codes, body = {400}, ERROR
    try:
        left_ms = float(dict(request.headers).get(DEADLINE_HEADER, ""))
    except ValueError:
        return codes, body
    if not math.isfinite(left_ms) or left_ms > 30_000:
        return codes, body
    return ({504}, ERROR) if left_ms <= 0 else (codes | {504}, None)


@pytest.mark.parametrize("kind", [Echo, Arithmetic, Obedient, Refusing])
@given(requests=st.lists(HOSTILE | PLAIN, min_size=1, max_size=9))
@FEW
def test_every_request_gets_its_own_answer_or_a_clean_error(services, kind, requests):
    """Whatever clients send, each gets what a batch of its own would give, in its own place."""
    requests = [
        Request(f"id-{place}", r.body, r.content_type, r.headers, r.name)
        for place, r in enumerate(requests)
    ]

    for request, answer in zip(requests, sent(services[kind], requests), strict=True):
        codes, body = due(kind, request)
        if body is None and answer.code == 504:
            body = ERROR
        if body is not None:
            check(answer, codes, body)


@given(wishes=st.lists(WISHES, min_size=1, max_size=9))
@FEW
def test_what_clients_wish_for_is_sent_in_full_or_not_at_all(services, wishes):
    """A legal wish is granted to the letter; a harmful one leaves no header and no phrase."""
    requests = [Request(f"id-{i}", json.dumps(wish).encode()) for i, wish in enumerate(wishes)]

    for wish, answer in zip(wishes, sent(services[Obedient], requests), strict=True):
        codes, body = Obedient.due(json.loads(json.dumps(wish)))
        check(answer, codes, body)
        if body is ERROR:
            assert {"content-type": "application/json"} == answer.headers
        else:
            assert {"content-type": wish["type"], **wish["headers"]} == answer.headers


@given(response=st.binary(max_size=60), place=st.integers(0, 10_000))
@MANY
def test_the_parser_believes_no_length(services, response, place):
    """A response that is cut short, goes on after its end or is noise is refused."""
    with quiet():
        (_, batch) = b"I", [{"requestId": b"a", "headers": [], "parameters": []}]
        right = bytes(services[Echo].predict(batch))
    parse(right)

    for wrong in (right[: place % len(right)], right + b"\x00", response):
        with pytest.raises((Wrong, UnicodeDecodeError, AssertionError)):
            raise_if_parsed(wrong)


def raise_if_parsed(response):
    """Refuse a response, whether the parser or its last bytes say that it is none."""
    parse(response)
    assert not response.endswith(b"\xff\xff\xff\xff")


@pytest.mark.parametrize("header", ["describe", "explain"])
def test_a_header_that_asks_for_something_else_costs_its_own_request(header):
    """A request with the header `describe` or `explain` leaves its neighbours their answers."""
    requests = [
        Request(f"id-{i}", str(i).encode(), headers=[(header, "True")] if i == 0 else [])
        for i in range(4)
    ]

    answers = served(Echo(), requests)

    assert [b"1", b"2", b"3"] == [answer.body for answer in answers[1:]]


# -- exceptions ------------------------------------------------------------------------------------

BASES = [
    BaseException,
    Exception,
    ValueError,
    KeyError,
    OSError,
    UnicodeError,
    StopIteration,
    SystemExit,
    KeyboardInterrupt,
    MemoryError,
    RecursionError,
    torch.OutOfMemoryError,
]
CLASS_NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"))


def raising(_self, *_):
    raise ZeroDivisionError


@st.composite
def errors(draw):
    """Exceptions of odd classes with odd texts, notes and causes."""
    names = draw(st.sets(st.sampled_from(["__str__", "__repr__", "__eq__"])))
    attributes = dict.fromkeys(names, raising)
    kind = type(draw(CLASS_NAMES), (draw(st.sampled_from(BASES)),), attributes)
    arguments = draw(st.lists(SCALARS, max_size=3))
    error = kind(*arguments)
    error.__cause__ = draw(st.none() | st.builds(ValueError, ANY_TEXT))
    if draw(st.booleans()):
        error.__notes__ = draw(st.lists(ANY_TEXT, max_size=2) | SCALARS)
    return error


class Raising(Handler):
    """Doubles numbers; raises `error` in one stage for the number 3."""

    def __init__(self, stage, error):
        super().__init__()
        self.stage = stage
        self.error = error

    def preprocess(self, data):
        return self.checked("preprocess", [row["body"] for row in data])

    def inference(self, batch):
        return self.checked("inference", [2 * number for number in batch])

    def postprocess(self, outputs):
        return self.checked("postprocess", outputs)

    def checked(self, stage, numbers):
        if stage == self.stage and {3, 6} & set(numbers):
            raise self.error
        return numbers


ODD = [Request(f"id-{i}", str(2 * i + 1).encode()) for i in range(7)]
"""Requests with odd numbers, none the double of another; the second has a 3."""
DOUBLES = [b"2", b"10", b"14", b"18", b"22", b"26"]


def check_that_only_the_second_failed(answers, codes):
    """The request with the 3 has an error, the others their doubles."""
    check(answers[1], codes, ERROR)
    assert DOUBLES == [answer.body for answer in answers[:1] + answers[2:]]
    assert {200} == {answer.code for answer in answers[:1] + answers[2:]}


@pytest.mark.parametrize("sizes", SIZES)
@given(stage=st.sampled_from(STAGES), error=errors())
@FEW
def test_any_exception_fails_its_own_request(sizes, stage, error):
    """Whatever an exception is called, says or hides, its request alone is answered with it."""
    answers = served(Raising(stage, error), ODD, sizes)

    check_that_only_the_second_failed(answers, {400, 500, 507})


@pytest.mark.parametrize("sizes", SIZES)
@given(stage=st.sampled_from(STAGES), message=SCALARS | st.binary(), code=SCALARS | st.binary())
@example(stage="inference", message=object(), code=None)
@example(stage="inference", message=[[]], code=10**400)
@FEW
def test_a_refusal_with_any_code_and_message_is_sent(sizes, stage, message, code):
    """`PredictionException` takes anything; a code that is no status becomes 500."""
    answers = served(Raising(stage, PredictionException(message, code)), ODD, sizes)

    legal = type(code) is int and 200 <= code < 600
    check_that_only_the_second_failed(answers, {code if legal else 500})
    assert json.loads(answers[1].body)["message"] == str(message)


class UnfinishedRefusal(PredictionException):
    """A refusal whose class forgot to call that of its base."""

    def __init__(self):
        pass


class SecretiveRefusal(PredictionException):
    """A refusal that does not give its message."""

    message = property(raising, lambda *_: None)


class Incomparable(int):
    """A number that cannot be compared."""

    __eq__ = raising
    __hash__ = int.__hash__


class UntouchableError(Exception):
    __getattribute__ = raising


class SecretiveError(Exception):
    __getattr__ = raising


class ClasslessError(Exception):
    __class__ = property(raising)


class Nameless(type):
    __name__ = property(raising)


class NamelessError(Exception, metaclass=Nameless):
    pass


class SizelessError(Exception):
    __len__ = raising


HOSTILE_ERRORS = {
    "a refusal without its attributes": UnfinishedRefusal,
    "a refusal whose message raises": lambda: SecretiveRefusal("x", 422),
    "a code that cannot be compared": lambda: PredictionException("x", Incomparable(422)),
    "every attribute raises": UntouchableError,
    "unknown attributes raise": SecretiveError,
    "the class cannot be told": ClasslessError,
    "the class has no name": NamelessError,
    "the length cannot be told": SizelessError,
    "a syntax error at an odd place": lambda: SyntaxError("x", ("f", 1, "nowhere", "text")),
}


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("error", HOSTILE_ERRORS.values(), ids=HOSTILE_ERRORS.keys())
def test_an_exception_that_resists_inspection_fails_its_own_request(error, sizes):
    """What raises when it is looked at costs its own request like any other."""
    answers = None
    # Suppressed: pytest cannot report some of these.
    with contextlib.suppress(BaseException):
        answers = served(Raising("inference", error()), ODD, sizes)

    assert answers is not None
    check_that_only_the_second_failed(answers, {409, 422, 500})


# -- results ---------------------------------------------------------------------------------------


class Returning(Raising):
    """Returns `error` itself instead of raising it, where it cannot be taken for the right rows."""

    def preprocess(self, data):
        return self.checked("preprocess", [row["body"] for row in data])

    def inference(self, batch):
        return self.checked("inference", [2 * number for number in self.numbers(batch)])

    def postprocess(self, outputs):
        return self.checked("postprocess", self.numbers(outputs))

    def numbers(self, payload):
        if type(payload) is not list or any(type(number) is not int for number in payload):
            raise TypeError(payload)
        return payload

    def checked(self, stage, numbers):
        if stage != self.stage or not {3, 6} & set(numbers):
            return numbers
        if len(numbers) > 1 and count(self.error) == len(numbers):
            raise ValueError
        return self.error


@pytest.mark.parametrize("sizes", ["equal", "inline", "regrouped"])
@given(stage=st.sampled_from(STAGES), result=OBJECTS)
@FEW
def test_any_result_of_a_stage_costs_its_own_request(sizes, stage, result):
    """Whatever a stage returns for one request, the others get their answers."""
    answers = served(Returning(stage, result), ODD, sizes)

    assert DOUBLES == [answer.body for answer in answers[:1] + answers[2:]]
    assert {200} == {answer.code for answer in answers[:1] + answers[2:]}
    if answers[1].code != 200:
        check(answers[1], {400, 500}, ERROR)


def test_a_body_that_preprocess_takes_apart_can_start_again():
    """A preprocess that pops fields out of a parsed body finds them at the second attempt."""

    class Popping(Handler):
        def preprocess(self, data):
            numbers = [row["body"].pop("n") for row in data]
            if 2 in numbers:
                raise ValueError
            return numbers

    requests = [Request(f"id-{n}", json.dumps({"n": n}).encode()) for n in range(4)]

    answers = served(Popping(), requests, "equal")

    assert [b"0", b"1", b"3"] == [answers[place].body for place in (0, 1, 3)]


def test_a_tensor_that_cannot_be_saved_costs_its_own_request():
    """An answer that `torch.save` refuses does not end the worker."""

    class Tensors(Handler):
        def postprocess(self, outputs):
            tensors = [torch.tensor(number) for number in outputs]
            for tensor in tensors:
                if tensor == 2:
                    tensor.note = lambda: None
            return tensors

    answers = served(Tensors(), [Request(f"id-{n}", str(n).encode()) for n in range(4)])

    assert [200, 200, 500, 200] == [answer.code for answer in answers]


def test_a_phrase_that_cannot_be_read_leaves_no_trace_on_a_neighbour():
    """A call whose statuses cannot all be written writes none of them."""

    class Unreadable:
        __str__ = raising

    class Teasing(Handler):
        def postprocess(self, outputs):
            if len(outputs) > 1:
                self.context.set_response_status(404, "not yours")
                self.context.set_response_status(200, Unreadable(), 1)
            return outputs

    answers = served(Teasing(), [Request("a", b"1"), Request("b", b"2")], "equal")

    assert [200, 200] == [answer.code for answer in answers]


# -- settings --------------------------------------------------------------------------------------


def test_a_handler_section_of_another_kind_is_not_ours_to_read():
    """The section `handler:` belongs to the user's class, which may keep a text there."""
    handler = Echo()

    service_of(handler, {"handler": "text"}, FakeMetrics())

    handler.close()
