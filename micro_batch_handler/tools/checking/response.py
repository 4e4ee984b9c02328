"""A worker's response, read as TorchServe's frontend reads it."""

from __future__ import annotations

import io
import struct
from typing import NamedTuple

__all__ = ["WireAnswer", "WireResponse", "read_response"]


class WireAnswer(NamedTuple):
    """One request's part of a response."""

    request_id: str
    content_type: str
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes


class WireResponse(NamedTuple):
    """The response to a batch."""

    code: int
    """Unless it is 200, every request of the batch gets it, with the message."""
    message: str
    answers: list[WireAnswer]


def read_response(response: bytes) -> WireResponse:
    """Read what `ts.protocol.otf_message_handler.create_predict_response` wrote."""
    stream = io.BytesIO(response)

    def number() -> int:
        return int(struct.unpack("!i", stream.read(4))[0])

    def text() -> str:
        return stream.read(number()).decode()

    code, message = number(), text()
    answers = []
    while (length := number()) >= 0:
        identity = stream.read(length).decode()
        content_type, status, phrase = text(), number(), text()
        headers = {text(): text() for _ in range(number())}
        body = stream.read(number())
        answers.append(WireAnswer(identity, content_type, status, phrase, headers, body))
    return WireResponse(code, message, answers)
