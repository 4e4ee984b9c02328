"""Bodies of requests, decoded in the preprocess lanes where the server leaves them as they came.

With `decode_input_request=false` in config.properties, TorchServe's worker does not decode bodies
in its one thread. Otherwise bodies are bytes here only if the worker could not decode them. The
lanes decode as the worker does (ts/protocol/otf_message_handler.py, `_retrieve_input_data`):

    content type             the handler finds
    application/json         the value; a body that is not JSON ends its request (see below)
    text/..., text...        text, if it is UTF-8; else the bytes
    any other, or none       the bytes; all that comes by gRPC has none

The content type is the frontend's: a body's without its parameters; a part's of a form as the
client wrote it, and only if the part has a file name.

One thing differs. A body that is not JSON is a `BodyError`, and no stage is called with it.
TorchServe logs a traceback and hands over the bytes, on which most handlers fail with their whole
batch. An empty body is handed over as it is, since a client may have nothing to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ts.context import Context

from micro_batch_handler.errors import BodyError

try:
    import orjson
except ImportError:  # an archive may run on a server without it
    orjson = None  # type: ignore[assignment]

__all__ = ["decode_row", "decode_rows", "decoder", "loads", "server_decodes"]

JSON = "application/json"


def server_decodes() -> bool:
    """Whether TorchServe's worker decodes bodies; it reads this variable for each of them."""
    return os.environ.get("TS_DECODE_INPUT_REQUEST") in {None, "true"}


def decoder(context: Context, rows: int) -> Callable[[int, Any], Any] | None:
    """A function that decodes the rows of a batch in any thread; None if an envelope made the rows.

    It takes a request's index and its row as it came, and raises what `decode_row` raises.

    Args:
        context: of the batch. Its headers of now count, even if a lane calls late.
        rows: how many there are. If requests are more or fewer, an envelope made the rows.
    """
    processors = context.request_processor
    if processors is None or len(processors) != rows:
        return None
    headers: Sequence[Mapping[str, Any]] = [each.get_request_properties() for each in processors]
    return lambda index, row: decode_row(row, headers[index])


def decode_rows(data: Sequence[Any], context: Context) -> list[Any]:
    """All rows of a batch, decoded for a handler that knows no micro-batches.

    As with TorchServe, a body that is not JSON stays as it came.
    """
    rows, decode = list(data), decoder(context, len(data))
    if decode is not None:
        for index, row in enumerate(data):
            with suppress(BodyError):
                rows[index] = decode(index, row)
    return rows


def decode_row(row: Any, headers: Mapping[str, Any]) -> Any:
    """The row with its bodies decoded, in place.

    Args:
        row: of one request, `{name: bytearray}`. Values of other types stay, and so do other rows.
        headers: of the request as `ts.service.Service` makes them: with `{"content-type": …}`
            under the name of each body.

    Raises:
        BodyError: the content type says JSON, and it is not.
    """
    if type(row) is not dict:
        return row
    for name, body in row.items():
        if type(body) is not bytearray:
            continue
        content_type = _content_type(name, headers)
        if content_type == JSON:
            row[name] = _value(body) if body else body
        elif content_type.startswith("text"):
            row[name] = _text(body)
    return row


def loads(body: bytearray) -> Any:
    """The value that `json.loads` reads in the body's UTF-8 text, faster if orjson is installed.

    orjson refuses some bodies that `json.loads` takes (NaN, lone surrogates); these go to
    `json.loads`. It takes a few hundred more levels of nesting than Python's stack may have room
    for.

    Raises:
        ValueError: it is not UTF-8, not JSON, or has an integer that Python does not convert.
        RecursionError: it is nested too deeply.
    """
    if orjson is not None and not _may_have_long_integers(body):
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            pass
    return json.loads(body.decode("utf-8"))


DIGITS = bytes(
    ord("0") if chr(code) in "0123456789" else ord(".") if chr(code) == "." else ord(" ")
    for code in range(256)
)
LONG = b"0" * 19
"""Integers from 2**63 on have 19 digits or more. In a fraction, a point stands before them."""


def _may_have_long_integers(body: bytearray) -> bool:
    """Whether there may be an integer of more than 64 bits, of which orjson would make a float.

    This takes a quarter of the time of decoding, far less than a regular expression. CPython's
    `find` would take three times as long as `rfind` for such a pattern.
    """
    digits = body.translate(DIGITS)
    return digits.rfind(b" " + LONG) >= 0 or digits.startswith(LONG)


def _value(body: bytearray) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError) as error:
        # Without a cause, since a JSONDecodeError holds the whole body.
        raise BodyError("preprocess", f"the body is not valid JSON: {error}") from None


def _text(body: bytearray) -> str | bytearray:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body


def _content_type(name: str, headers: Mapping[str, Any]) -> str:
    """The content type of the body with this name; empty if there is none."""
    described = headers.get(name)
    if type(described) is dict:
        return str(described.get("content-type", ""))
    # The client sent a header of that name, which replaced the content type. A request that is no
    # form has one body, whose type is the request's; the type of a form's part is lost.
    return _mime_type(headers) if name == "body" else ""


def _mime_type(headers: Mapping[str, Any]) -> str:
    """The request's content type without parameters, as Netty's HttpUtil.getMimeType returns it."""
    for name, value in headers.items():
        if name.lower() == "content-type" and type(value) is str:
            return value.split(";", 1)[0]
    return ""
