"""Handlers as users write them, of forty kinds: what to ask each, and what its answer must be.

A kind is a file of handlers/kinds that knows nothing of this package. Served with one request at a
time it answers rightly; that is what the same file must answer with micro-batching in front of it.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.archives import HANDLERS

__all__ = [
    "HANDLERS_OF_KINDS",
    "KINDS",
    "OK",
    "Kind",
    "Told",
    "Verdict",
    "alike",
    "body_of",
    "told",
    "verdict",
]

HANDLERS_OF_KINDS = HANDLERS / "kinds"

Request = dict[str, Any]
"""A request as keywords for `requests.post`."""

Verdict = Literal[
    "right", "wrong", "good that failed", "bad that passed", "broken off beside a bad one"
]

OK = 200

ERROR_AT_END = re.compile(rb'\{\s*"code":\s*(\d{3}),[^{}]*\}\s*\Z')

SPLIT = {
    "micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 3},
    "parallelism": {"preprocess": 2},
}
TWO = {"micro_batch_size": 2}
LANES = {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "postprocess": 2}}
AUTO: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Kind:
    """One way to write a handler."""

    name: str
    """Of its file, without `.py`."""

    request: Callable[[int], Request]
    """A request; the number makes it distinct."""

    bad: Callable[[int], Request] | None = None
    """A request that the handler fails on."""

    section: Mapping[str, Any] = field(default_factory=lambda: SPLIT)
    """The `micro_batching:` section to serve it with."""

    streams: bool = False
    """Whether it sends parts of an answer before the last."""

    headers: tuple[str, ...] = ()
    """The response headers that it sets."""

    statuses: tuple[int, ...] = (OK,)
    """What it answers with; everything else is a failure."""

    refused: str = ""
    """A regular expression that the message matches if micro-batching may be refused to it."""

    extra: tuple[str, ...] = ()
    """Files of kinds/extra that it imports."""

    @property
    def file(self) -> Path:
        """The handler."""
        return HANDLERS_OF_KINDS / f"{self.name}.py"

    @property
    def extra_files(self) -> dict[str, Path]:
        """What lies beside it, by name."""
        return {name: HANDLERS_OF_KINDS / "extra" / name for name in self.extra}

    def ask(self, number: int, *, bad: bool = False) -> Request:
        """A good or a bad request; a good one where there are no bad ones."""
        return self.bad(number) if bad and self.bad is not None else self.request(number)


@dataclass(frozen=True)
class Told:
    """What a client was told."""

    status: int
    """0 for an answer that broke off."""

    body: Any = None
    """JSON, or bytes where it is none; all parts of a stream together."""

    headers: Mapping[str, str | None] = field(default_factory=dict)
    """The response headers that are compared."""


def body_of(body: bytes) -> Any:
    """The content of a body: JSON is decoded, since it can be written in more than one way."""
    try:
        return json.loads(body)
    except ValueError:
        return bytes(body)


def told(answer: Any, headers: Sequence[str] = (), *, streams: bool = False) -> Told:
    """What a response of `requests` tells; a stream that fails has sent its status already."""
    failed = ERROR_AT_END.search(answer.content) if streams and answer.status_code == OK else None
    status = int(failed[1]) if failed else answer.status_code
    return Told(
        status, body_of(answer.content), {each: answer.headers.get(each) for each in headers}
    )


def verdict(kind: Kind, expected: Told, found: Told) -> Verdict:
    """Compare an answer with the one that the plain handler gave to the same request."""
    if expected.status not in kind.statuses:
        return "bad that passed" if found.status == OK else "right"
    if found.status not in kind.statuses:
        # The part of the answer that its client has got can be neither taken back nor sent again.
        return "broken off beside a bad one" if kind.streams and kind.bad else "good that failed"
    same = (
        expected.status == found.status
        and dict(expected.headers) == dict(found.headers)
        and alike(expected.body, found.body)
    )
    return "right" if same else "wrong"


def alike(one: Any, other: Any) -> bool:
    """Whether two are equal but for the last digits, which depend on the size of the batch."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-9)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


# Requests


def _user(number: int) -> dict[str, str]:
    return {"x-user": f"user-{number}"}


def _words(number: int) -> str:
    words = ["ann", "met", "Bob", "in", "Rome", "today"]
    return " ".join([*words[: number % len(words) + 1], f"n{number}"])


def _text(number: int) -> Request:
    return {"data": _words(number).encode(), "headers": _user(number)}


def _no_text(number: int) -> Request:
    """Bytes that are no UTF-8."""
    return {"data": b"\xff\xfe" + _words(number).encode(), "headers": _user(number)}


def _json(make: Callable[[int], Any]) -> Callable[[int], Request]:
    return lambda number: {"json": make(number), "headers": _user(number)}


def _image(number: int) -> Request:
    from PIL import Image

    size = (10 + number % 7 * 3, 12 + number % 5 * 4)
    image = Image.new("L", size, color=100)
    image.putpixel((number % size[0], number % size[1]), 255)
    image.paste(0, (0, 0, 1 + number % 4, size[1] // 2))
    image.paste(200, (size[0] // 2, number % 6, size[0], size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"data": file.getvalue()}


def _numbers(number: int) -> list[float]:
    return [number, number % 7 + 0.5, -(number % 3)]


KINDS = [
    # The context, kept elsewhere.
    Kind("context_kept", _text, _no_text, headers=("x-greeting",)),
    Kind(
        "context_status",
        _json(lambda n: {"value": n} if n % 4 else {"other": n}),
        _json(lambda n: {"value": f"x{n}"}),
        headers=("content-type", "x-root"),
        statuses=(OK, 422),
    ),
    Kind(
        "context_service",
        _json(lambda n: {"numbers": [n, n % 5]}),
        _json(lambda _: {"numbers": []}),
        headers=("x-total",),
    ),
    Kind(
        "context_metrics",
        _json(lambda n: {"features": _numbers(n)}),
        _json(lambda n: {"features": [n]}),
    ),
    Kind(
        "context_helper",
        _json(lambda n: {"price": n + 0.5}),
        _json(lambda n: {"price": f"{n} euro"}),
        LANES,
        extra=("tenants.py",),
    ),
    Kind("context_global", _text, _no_text, TWO),
    # State that is kept between stages.
    Kind(
        "state_list",
        _json(lambda n: {"kind": ("dog", "cat", "cow")[n % 3], "age": n}),
        _json(lambda _: {"kind": "dog"}),
    ),
    Kind("state_lengths", _text, _no_text),
    Kind("state_sizes", _image, lambda n: {"data": f"no image {n}".encode()}, LANES),
    Kind("state_index", _text, _no_text),
    Kind(
        "state_setattr",
        _json(lambda n: {"title": f"title {n}", "body": _words(n)}),
        _json(lambda n: {"title": f"title {n}"}),
    ),
    Kind("state_object", _text, _no_text, LANES),
    Kind(
        "state_global",
        _json(lambda n: {"name": f"ann {n}", "language": ("en", "de", "fr")[n % 3]}),
        _json(lambda n: {"name": f"ann {n}", "language": "xx"}),
        TWO,
    ),
    Kind(
        "state_class",
        _json(lambda n: {"context": f"{n}: {_words(n)}", "start": n % 3, "length": n % 5 + 1}),
        _json(lambda n: {"context": f"{n}", "start": 0, "length": "all"}),
        LANES,
    ),
    Kind(
        "state_queue",
        _json(lambda n: {"value": n, "unit": ("cm", "mm", "km")[n % 3]}),
        _json(lambda n: {"value": f"{n} m"}),
    ),
    Kind(
        "state_batch_size",
        _json(lambda n: {"series": [n, n + 1, 2 * n, -n]}),
        _json(lambda n: {"series": [n, "x", n, n]}),
    ),
    Kind(
        "state_own_handle",
        _json(lambda n: {"scores": [n % 5, n % 7 + 0.5, n % 3 + 0.25]}),
        _json(lambda _: {"scores": "none"}),
        refused=r"has a handle\(\) of its own",
    ),
    # Payloads that are no rows.
    Kind(
        "shape_frames",
        _json(lambda n: {"frames": [[n, at, 1.5] for at in range(n % 4 + 1)]}),
        _json(lambda _: {"frames": []}),
    ),
    Kind(
        "shape_split",
        _json(lambda n: {"tokens": [n + at for at in range(n % 3 + 1)]}),
        _json(lambda n: {"tokens": [n, "x"]}),
        TWO,
    ),
    Kind(
        "shape_onnx",
        _json(lambda n: {"features": _numbers(n)}),
        _json(lambda n: {"features": [n]}),
    ),
    Kind(
        "shape_features",
        _json(lambda n: {"pixels": [n, n % 3, n % 5, 1]}),
        _json(lambda n: {"pixels": [n, n, n]}),
    ),
    Kind(
        "shape_loss",
        _json(lambda n: {"inputs": [n, n % 4 + 0.5]}),
        _json(lambda n: {"inputs": [n]}),
    ),
    Kind(
        "shape_generator",
        lambda n: {"data": bytes([n % 256, 1] * (n % 4 + 1))},
        lambda n: {"data": bytes([n % 256] * 3)},
    ),
    Kind("shape_dataclass", _text, _no_text),
    Kind(
        "shape_columns",
        _json(lambda n: {"point": [n, n % 5 + 0.5]}),
        _json(lambda n: {"point": [n]}),
    ),
    Kind(
        "shape_flat",
        _json(lambda n: {"text": _words(n)}),
        _json(lambda n: {"text": f"\N{EURO SIGN} {n}"}),
    ),
    # What belongs to one thread.
    Kind(
        "thread_loop",
        _json(lambda n: {"document": _words(n)}),
        _json(lambda n: {"document": n}),
        LANES,
    ),
    Kind(
        "thread_sqlite",
        _json(lambda n: {"item": n % 100}),
        _json(lambda n: {"item": n + 1000}),
    ),
    Kind(
        "thread_get_loop",
        _json(lambda n: {"number": n}),
        _json(lambda n: {"number": f"x{n}"}),
        TWO,
    ),
    Kind(
        "thread_signal",
        _json(lambda n: {"values": _numbers(n)}),
        _json(lambda n: {"values": [n, "x", n]}),
    ),
    Kind("thread_bound", _text, _no_text),
    Kind("thread_pool", _text, _no_text),
    # Streams.
    Kind("stream_words", _text, _no_text, streams=True),
    Kind(
        "stream_raises",
        _json(lambda n: {"numbers": [n, n % 3 + 1]}),
        _json(lambda n: {"numbers": [n, 0]}),
        streams=True,
    ),
    # `handle` and nothing else.
    Kind(
        "handle_bare",
        _json(lambda n: {"numbers": _numbers(n)}),
        _json(lambda n: {"numbers": [n, "x"]}),
        headers=("x-for",),
    ),
    Kind("handle_base", _text, _no_text, headers=("content-type",)),
    # Methods that have the names of ours.
    Kind(
        "names_of_hooks",
        _json(lambda n: {"words": _words(n).split()}),
        _json(lambda n: {"words": [f"n{n}", ""]}),
    ),
    # One request a batch.
    Kind(
        "first_assert",
        _json(lambda n: {"numbers": _numbers(n)}),
        _json(lambda n: {"numbers": [n, "x"]}),
    ),
    Kind("first_deeper", _text, _no_text, AUTO),
    # What is kept and does no harm.
    Kind("extras_lazy", _text, _no_text, AUTO),
]
"""All of them."""
