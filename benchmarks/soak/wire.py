"""The frontend's side of the worker protocol: requests in, answers out, in one process."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ts.protocol.otf_message_handler import retrieve_msg
from ts.service import Service


class Wrong(AssertionError):  # noqa: N818  (what was found, not what went wrong here)
    """Something is not as it must be."""


@dataclass(frozen=True)
class Request:
    """One request of a batch, as the frontend hands it on."""

    id: str
    body: bytes
    content_type: str = "application/json"
    headers: Sequence[tuple[str, str]] = (("host", "localhost"),)
    """Of HTTP; without any it is one of gRPC's."""
    name: str = "body"


@dataclass(frozen=True)
class Answer:
    """What the frontend is told of one request."""

    id: str
    content_type: str
    code: int
    phrase: str
    headers: dict[str, str]
    body: bytes


END = struct.pack("!i", -1)


def predict(service: Service, requests: Sequence[Request]) -> tuple[int, str, list[Answer]]:
    """Send a batch through TorchServe's own reading, predicting and writing."""
    frame = b"I" + b"".join(_frame(request) for request in requests) + END
    wire = _Wire(frame)
    _, batch = retrieve_msg(wire)
    if wire.left:
        raise Wrong(f"{wire.left} bytes of the request were not read")
    return parse(bytes(service.predict(batch)))


def parse(response: bytes) -> tuple[int, str, list[Answer]]:
    """The batch's code and message and all answers, in the order they came.

    Raises:
        Wrong: a length does not agree, or something follows the end mark.
    """
    reader = _Reader(response)
    code, message = reader.number(), reader.text()
    answers = []
    while (length := reader.number()) != -1:
        identity = reader.take(length).decode()
        content_type, status, phrase = reader.text(), reader.number(), reader.text()
        headers = [(reader.text(), reader.text()) for _ in range(reader.count())]
        if len(dict(headers)) != len(headers):
            raise Wrong(f"a response header comes twice: {headers}")
        body = reader.take(reader.count())
        answers.append(Answer(identity, content_type, status, phrase, dict(headers), body))
    if reader.left:
        raise Wrong(f"{reader.left} bytes follow the end mark")
    return code, message, answers


def _frame(request: Request) -> bytes:
    headers = b"".join(_text(name) + _text(value) for name, value in request.headers)
    parameter = _text(request.name) + _text(request.content_type) + _text(request.body)
    return _text(request.id) + headers + END + parameter + END


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("!i", len(data)) + data


class _Wire:
    """A socket that has received one frame."""

    def __init__(self, frame: bytes) -> None:
        self._frame = memoryview(frame)

    @property
    def left(self) -> int:
        return len(self._frame)

    def recv(self, length: int) -> bytes:
        piece, self._frame = bytes(self._frame[:length]), self._frame[length:]
        return piece


class _Reader:
    """Takes a response apart and believes no length."""

    def __init__(self, response: bytes) -> None:
        self._response = response
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._response) - self._place

    def take(self, length: int) -> bytes:
        if not 0 <= length <= self.left:
            raise Wrong(f"a length of {length} with {self.left} bytes left")
        self._place += length
        return self._response[self._place - length : self._place]

    def number(self) -> int:
        return int(struct.unpack("!i", self.take(4))[0])

    def count(self) -> int:
        count = self.number()
        if count < 0:
            raise Wrong(f"a count of {count}")
        return count

    def text(self) -> str:
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError as error:
            raise Wrong(f"a text that is no UTF-8: {error}") from error
