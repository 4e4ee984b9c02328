"""Bodies of requests, decoded inside the lanes as TorchServe's worker would have done."""

from __future__ import annotations

import json
import logging
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ts.protocol.otf_message_handler import _retrieve_request
from ts.service import Service

from harness.service import Wire
from harness.wire import END, text
from micro_batch_handler.errors import BodyError
from micro_batch_handler.torchserve.wire import decode as module
from micro_batch_handler.torchserve.wire.decode import (
    decode_row,
    decode_rows,
    decoder,
    loads,
    server_decodes,
)
from tests.fakes import fake_context

DECODES = "TS_DECODE_INPUT_REQUEST"
JSON = "application/json"
TYPES = ["", JSON, "application/json ", "Application/JSON", "application/json; charset=utf-8"]
TYPES += ["application/jsonl", "text/plain", "text", "textual", "TEXT/plain", "image/png"]

VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
TOKENS = st.sampled_from(
    [*'[]{},:"', " ", "\n", "\t", "null", "true", "false", "NaN", "Infinity", "-Infinity", "-"]
    + ["0", "-0", "01", "1.", ".5", "1e5", "1E-400", "1e400", "0.1", "-0.0", "1e22", "+1"]
    + [str(sign * 2**63 + more) for sign in (-1, 1, 2) for more in (-1, 0, 1)]
    + [str(10**18), str(10**19), f"0.{10**20}", f"{10**20}.5", f"{10**20}e0", "9" * 400]
    + ['"a"', '"a":1', '"a":2', r'"\ud800"', r'"\ud83d\ude00"', '"\\u0000"', '"\x01"', '"ü"']
    + ["\ufeff", "\x00", "\x0b", "'a'", "/**/", "\ud800"]
)


def received(parameters, headers, *, decoded):
    """The row and the headers that TorchServe hands to a handler for such a request."""
    message = text("id") + b"".join(text(k) + text(v) for k, v in headers.items()) + END
    message += b"".join(text(name) + text(kind) + text(body) for name, kind, body in parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DECODES, str(decoded).lower())
        request = _retrieve_request(Wire(message + END))
    (processor,), (row,), _ = Service.retrieve_data_for_inference([request])
    return row, processor.get_request_properties()


def result(function, *arguments):
    """What a function gives, with the difference between 1, 1.0, -0.0 and NaN; or that it fails."""
    try:
        return repr(function(*arguments))
    except (ValueError, RecursionError):
        return "not JSON"


def as_torchserve(body: bytes):
    """Whether and what TorchServe makes of a JSON body."""
    return result(lambda: json.loads(body.decode("utf-8")))


@pytest.fixture(params=["orjson", "json"])
def library(request, monkeypatch):
    """The test runs with orjson, and as where it is not installed."""
    if request.param == "json":
        monkeypatch.setattr(module, "orjson", None)
    elif module.orjson is None:
        pytest.skip("orjson is not installed")


@pytest.fixture(autouse=True)
def _no_log():
    """TorchServe logs a traceback for each body that it cannot decode."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_json_is_what_json_makes_of_it(value, indent, ascii_only):
    """A body that is JSON gives what `json.loads` gives: types, order, all digits."""
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()

    assert result(loads, bytearray(body)) == as_torchserve(body) != "not JSON"


@given(st.lists(TOKENS, max_size=8).map("".join) | st.text() | st.binary())
@example(str(2**64))
@example(f"-{2**63 + 1}")
@example(f"[1,{2**64}]")
@example(f'{{"a":{2**64}}}')
@example(f'{{"a": {2**64}}}')
@example(f"[\n{2**64}\n]")
@example(f"[0.1,-{2**64}]")
@example("[" * 900 + "]" * 900)
@example("[" * 5000 + "]" * 5000)
@example("1" * 5000)
@example("{}".encode("utf-16"))
@example("")
def test_json_is_accepted_and_refused_as_json_does(body):
    """What is not quite JSON is refused if `json.loads` refuses it, and means the same if not."""
    body = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body

    assert result(loads, bytearray(body)) == as_torchserve(body)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["body", "data", "ü"]),
            st.sampled_from(TYPES),
            st.sampled_from([b"", b"[1]", b'{"a": 1}', b"\xff", "grün".encode(), b"1" * 20])
            | VALUES.map(lambda value: json.dumps(value).encode()),
        ),
        max_size=4,
    )
)
def test_rows_are_those_of_a_server_that_decodes(parameters):
    """Any parts of any types give the same row, as long as those that say JSON are."""
    headers = {"content-type": "multipart/form-data", "Host": "localhost"}
    expected, _ = received(parameters, headers, decoded=True)
    row, headers = received(parameters, headers, decoded=False)
    last = {name: (kind, body) for name, kind, body in parameters}
    broken = any(
        kind == JSON and body and as_torchserve(body) == "not JSON" for kind, body in last.values()
    )

    if broken:
        with pytest.raises(BodyError):
            decode_row(row, headers)
    else:
        assert repr(decode_row(row, headers)) == repr(expected)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("body", [b"{", b"\xff", b"{} {}", "{}".encode("utf-16"), b"\xef\xbb\xbf1"])
def test_a_body_that_is_not_json_is_an_error(body):
    """It is this request's own, and says where the body is wrong."""
    row, headers = received([("body", JSON, body)], {}, decoded=False)

    with pytest.raises(BodyError, match=r"^preprocess: the body is not valid JSON: .+") as caught:
        decode_row(row, headers)

    # Nothing keeps the body: it may be large, and the error goes to the log.
    assert caught.value.__cause__ is None


def test_a_header_named_like_the_body_hides_nothing():
    """A client's header `body` takes the place of the content type, which is the request's."""
    for content_type, expected in [
        ("application/json; charset=utf-8", [1]),
        ("application/json ; charset=utf-8", bytearray(b"[1]")),
        ("text/plain;x", "[1]"),
    ]:
        client = {"body": "x", "Content-Type": content_type}
        parameters = [("body", content_type.split(";")[0], b"[1]")]
        row, headers = received(parameters, client, decoded=False)

        assert headers["body"] == "x"
        assert decode_row(row, headers) == {"body": expected}
        assert received(parameters, client, decoded=True)[0] == {"body": expected}


def test_a_header_named_like_a_part_hides_its_type():
    """What such a part was is lost before a handler sees it, so it stays as it came."""
    row, headers = received([("data", JSON, b"[1]")], {"data": "x"}, decoded=False)

    assert decode_row(row, headers) == {"data": bytearray(b"[1]")}


def test_only_what_came_as_bytes_is_decoded():
    """Values that somebody has decoded before, and rows that an envelope has made, stay."""
    headers = {"body": {"content-type": JSON}}

    for row in ({"body": [1]}, {"body": b"[1]"}, {"body": "[1]"}, bytearray(b"[1]"), [1], None, {}):
        assert repr(decode_row(row, headers)) == repr(row)


@pytest.mark.parametrize(
    ("value", "decodes"), [(None, True), ("true", True), ("false", False), ("TRUE", False)]
)
def test_who_decodes_is_read_where_torchserve_reads_it(monkeypatch, value, decodes):
    """The worker's environment says whether TorchServe decodes; an envelope's rows are its own."""
    monkeypatch.delenv(DECODES, raising=False)
    if value is not None:
        monkeypatch.setenv(DECODES, value)
    context = fake_context(2)

    assert server_decodes() == decodes
    assert decoder(context, 3) is None, "an envelope has made these rows"
    assert os.environ.get(DECODES) == value


@pytest.mark.parametrize("server", ["true", "false"])
def test_what_the_server_could_not_decode_is_an_error_too(monkeypatch, server):
    """TorchServe hands over JSON that is broken as bytes; its client gets the same 400."""
    monkeypatch.setenv(DECODES, server)
    decode = decoder(fake_context(2, headers=[{"body": {"content-type": JSON}}] * 2), 2)

    assert decode(0, {"body": [1]}) == {"body": [1]}
    with pytest.raises(BodyError, match="not valid JSON"):
        decode(1, {"body": bytearray(b"{")})


def test_a_batch_for_a_handler_that_is_not_ours_is_as_torchserves(monkeypatch):
    """Where no request can fail alone, a body that is not JSON stays as it came."""
    monkeypatch.setenv(DECODES, "false")
    context = fake_context(3, headers=[{"body": {"content-type": JSON}}] * 3)
    data = [{"body": bytearray(body)} for body in (b"[1]", b"{", b"")]

    expected = [{"body": [1]}, {"body": bytearray(b"{")}, {"body": bytearray()}]
    assert decode_rows(data, context) == expected
