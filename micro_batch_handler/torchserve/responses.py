"""The status and headers of each answer: read, checked, written, as TorchServe can send them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ts.context import Context, RequestProcessor

__all__ = [
    "STATUSES",
    "STREAM_NEXT",
    "Response",
    "checked",
    "clean_phrase",
    "declare_json",
    "end_streams",
    "response_of",
    "set_response",
]

STATUSES = range(200, 600)
"""Statuses that may be sent. Those below 200 are interim and end no request."""

STREAM_NEXT = "ts_stream_next"
"""The response header by which a worker tells the frontend that more of an answer follows. The
last part turns it to "false", if it is there (ts/protocol/otf_message_handler.py)."""

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""https://www.rfc-editor.org/rfc/rfc9110#name-tokens"""

LONGEST_PHRASE = 128
"""Characters."""


class Response(NamedTuple):
    """The status, phrase and headers of one answer; the defaults are TorchServe's."""

    status: int = 200
    phrase: str | None = None
    headers: Mapping[str, str] = {}


def response_of(processor: RequestProcessor) -> Response:
    """The response that is set now."""
    return Response(
        processor.get_response_status_code(),
        processor.get_response_status_phrase(),
        dict(processor.get_response_headers()),
    )


def set_response(processor: RequestProcessor, response: Response) -> None:
    """Set this response in place of what is set."""
    processor.report_status(response.status, response.phrase)
    headers = processor.get_response_headers()
    headers.clear()
    headers.update(response.headers)


def checked(response: Response) -> Response:
    """The response with a phrase that is fit to send.

    Raises:
        ValueError: its status or a header would end TorchServe's worker or Netty's thread, and so
            the whole batch.
    """
    if not isinstance(response.status, int) or response.status not in STATUSES:
        raise ValueError(
            f"a response status must be a number from 200 to 599, found {response.status!r}"
        )
    for name, value in response.headers.items():
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a response header")
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"response header {name} must be one line of text, found {value!r}")
    content_type = response.headers.get("content-type")
    if content_type is not None and not content_type.isascii():
        # Its length is sent in characters, the text in bytes.
        raise ValueError(f"the response's content type must be ASCII, found {content_type!r}")
    phrase = None if response.phrase is None else clean_phrase(response.phrase)
    return response._replace(phrase=phrase)


def clean_phrase(phrase: object) -> str:
    r"""A reason phrase that cannot harm the frontend.

    A line end makes Netty kill the worker's thread; a character outside ASCII breaks the worker
    protocol, which sends the length in characters and the text in bytes
    (ts/protocol/otf_message_handler.py).

    >>> clean_phrase("no\r\nfigs, señor")
    'no  figs, se?or'
    """
    text = str(phrase)[:LONGEST_PHRASE].encode("ascii", "replace").decode("ascii")
    return "".join(char if char.isprintable() else " " for char in text)


def declare_json(processor: RequestProcessor) -> None:
    """Set JSON as the content type, unless one is set."""
    headers = processor.get_response_headers()
    if not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = "application/json"


def end_streams(context: Context) -> None:
    """Mark each gRPC answer as the last of its stream.

    `StreamPredictions` reads this header without asking whether it is there: its frontend thread
    dies of an answer without it, and the worker with that thread (GRPCJob.response, TorchServe
    0.12). A REST answer must not have it, or it is sent without its head. A gRPC request is known
    by its headers: they describe its inputs, and none is HTTP's.
    """
    for processor in context.request_processor or ():
        headers = processor.get_request_properties().values()
        if isinstance(next(iter(headers), None), str):
            continue
        grpc = not any(isinstance(value, str) for value in headers)
        if grpc and not processor.get_response_header(STREAM_NEXT):
            processor.add_response_property(STREAM_NEXT, "false")
