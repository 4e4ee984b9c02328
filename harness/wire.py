"""The frontend's side of the worker protocol (ts/protocol/otf_message_handler.py)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["DEADLINE_HEADER", "END", "Answer", "Request", "Wrong", "frame", "parse", "read", "text"]

DEADLINE_HEADER = "x-envoy-expected-rq-timeout-ms"
END = struct.pack("!i", -1)
"""The end of a list."""


class Wrong(AssertionError):  # noqa: N818  (a finding, not an error of this program)
    """A server, a worker or a batch did something wrong."""


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


def frame(requests: Iterable[Request]) -> bytes:
    """The message that hands a batch to the worker."""
    return b"I" + b"".join(map(_request, requests)) + END


def text(value: str | bytes) -> bytes:
    """A text with its length in front."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(data)) + data


def _request(request: Request) -> bytes:
    headers = b"".join(text(name) + text(value) for name, value in request.headers)
    parameter = text(request.name) + text(request.content_type) + text(request.body)
    return text(request.id) + headers + END + parameter + END


def parse(response: bytes) -> tuple[int, str, list[Answer]]:
    """The batch's code and message and all answers, in the order they came.

    Raises:
        Wrong: a length does not agree, or something follows the end mark.
    """
    left = memoryview(response)

    def take(length: int) -> bytes:
        nonlocal left
        if not 0 <= length <= len(left):
            raise Wrong(f"a length of {length} with {len(left)} bytes left")
        piece, left = bytes(left[:length]), left[length:]
        return piece

    found = read(take)
    if left:
        raise Wrong(f"{len(left)} bytes follow the end mark")
    return found


def read(take: Callable[[int], bytes]) -> tuple[int, str, list[Answer]]:
    """As `parse`, from a connection: `take(n)` reads n bytes of it."""
    reader = _Reader(take)
    code, message = reader.number(), reader.text()
    answers = []
    while (length := reader.number()) != -1:
        identity = take(length).decode()
        content_type, status, phrase = reader.text(), reader.number(), reader.text()
        headers = [(reader.text(), reader.text()) for _ in range(reader.count())]
        if len(dict(headers)) != len(headers):
            raise Wrong(f"a response header comes twice: {headers}")
        body = take(reader.count())
        answers.append(Answer(identity, content_type, status, phrase, dict(headers), body))
    return code, message, answers


class _Reader:
    """Takes a response apart and believes no length."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take

    def number(self) -> int:
        return int(struct.unpack("!i", self._take(4))[0])

    def count(self) -> int:
        count = self.number()
        if count < 0:
            raise Wrong(f"a count of {count}")
        return count

    def text(self) -> str:
        try:
            return self._take(self.count()).decode()
        except UnicodeDecodeError as error:
            raise Wrong(f"a text that is no UTF-8: {error}") from error
