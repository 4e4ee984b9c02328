"""Bodies of requests, decoded in the preprocess lanes where the server leaves them as they came.

With `decode_input_request=false` in config.properties, TorchServe's worker does not decode bodies
in its one thread; else only those are bytes here that it could not decode. Decoded here, they are
what it would have made of them (ts/protocol/otf_message_handler.py, `_retrieve_input_data`):

    content type             the handler finds
    application/json         the value; a body that is not JSON ends its request (see below)
    text/..., text...        text, if it is UTF-8; else the bytes
    any other, or none       the bytes; so it is for everything that comes by gRPC

The content type is the frontend's: of a body without its parameters, of a part of a form as its
client wrote it, and only for parts with a file name.

One thing differs: a body that is not JSON is a `BodyError`, and the stages are not called with it.
TorchServe logs a traceback and hands over the bytes, on which most handlers fail with their whole
batch. An empty body is handed over as it is: its client may have nothing to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ts.context import Context

from micro_batch_handler.errors import BodyError

try:
    import orjson
except ImportError:  # an archive may run on a server without it
    orjson = None  # type: ignore[assignment]

__all__ = ["Decode", "decode_row", "decode_rows", "decoder", "loads", "server_decodes"]

Decode: TypeAlias = Callable[[int, Any], Any]
"""(place of the request in the batch, its row as it came) -> its row, decoded"""

JSON = "application/json"


def server_decodes() -> bool:
    """Whether TorchServe's worker decodes bodies itself; it looks there at each of them."""
    return os.environ.get("TS_DECODE_INPUT_REQUEST") in {None, "true"}


def decoder(context: Context, rows: int) -> Decode | None:
    """What decodes the rows of a batch, in any thread; None where an envelope has made them.

    Args:
        context: the batch's; what it says now is what counts, even if a lane comes late.
        rows: their number; if requests are more or fewer, an envelope has made the rows.

    The result raises what `decode_row` raises.
    """
    processors = context.request_processor
    if processors is None or len(processors) != rows:
        return None
    headers: Sequence[Mapping[str, Any]] = [each.get_request_properties() for each in processors]
    return lambda index, row: decode_row(row, headers[index])


def decode_rows(data: Sequence[Any], context: Context) -> list[Any]:
    """All rows of a batch for a handler that knows no micro-batches, so that none fails alone.

    A body that is not JSON stays as it came, as with TorchServe.
    """
    decode = decoder(context, len(data))
    return list(data) if decode is None else [_or_raw(decode, *each) for each in enumerate(data)]


def decode_row(row: Any, headers: Mapping[str, Any]) -> Any:
    """The row with its bodies decoded, in place.

    Args:
        row: of one request, `{name: bytearray}`; values of other types stay, and so do other rows.
        headers: of the request, as `ts.service.Service` gives them: with `{"content-type": …}`
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
    """What `json.loads` makes of the body's UTF-8 text, faster where orjson is installed.

    orjson refuses some of what `json.loads` takes (NaN, lone surrogates), which is then asked. It
    also takes a few hundred more levels of nesting than Python's stack may have room for.

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
"""From 2**63 on, integers have 19 digits or more; of a fraction, a point stands before them."""


def _may_have_long_integers(body: bytearray) -> bool:
    """Whether orjson could make a float of an integer, which it does beyond 64 bits.

    Far cheaper than a regular expression: a quarter of the time of decoding itself. `rfind`, since
    CPython's `find` takes three times as long for such a pattern.
    """
    digits = body.translate(DIGITS)
    return digits.rfind(b" " + LONG) >= 0 or digits.startswith(LONG)


def _value(body: bytearray) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError) as error:
        # Not from it: a JSONDecodeError holds the whole body.
        raise BodyError("preprocess", f"the body is not valid JSON: {error}") from None


def _text(body: bytearray) -> str | bytearray:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body


def _or_raw(decode: Decode, index: int, row: Any) -> Any:
    try:
        return decode(index, row)
    except BodyError:
        return row


def _content_type(name: str, headers: Mapping[str, Any]) -> str:
    """The content type of the body with this name; empty if there is none."""
    described = headers.get(name)
    if type(described) is dict:
        return str(described.get("content-type", ""))
    # The client has sent a header of that name, which has taken the place of the content type. A
    # request that is no form has one body, and the same type; what a form's part had is lost.
    return _mime_type(headers) if name == "body" else ""


def _mime_type(headers: Mapping[str, Any]) -> str:
    """The request's content type without parameters, as Netty's HttpUtil.getMimeType has it."""
    for name, value in headers.items():
        if name.lower() == "content-type" and type(value) is str:
            return value.split(";", 1)[0]
    return ""
