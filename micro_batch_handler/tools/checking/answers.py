"""The answers of a worker: read from its responses, judged, compared, and put in a few words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from micro_batch_handler.tools.checking.response import read_response

__all__ = ["Answer", "cause", "is_same", "parse_response", "readable"]

_OK = 200

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""A model may compute a row otherwise with other rows beside it, in the last digits."""

_SHOWN = 160
"""The most characters of a body that are shown."""


@dataclass(frozen=True)
class Answer:
    """One request's part of a response, as its client gets it."""

    status: int
    content_type: str
    body: bytes

    problem: str
    """Why the answer is bad, in one line; empty if it is good."""

    def __str__(self) -> str:
        if self.problem:
            return _shortened(self.problem.removeprefix("its answer is ").strip())
        kind = f" {self.content_type}" if self.content_type else ""
        return f"{self.status}{kind} {_shown(self.body)}"


def parse_response(response: bytes, logged: BaseException | None = None) -> list[Answer]:
    """Read what `create_predict_response` wrote.

    Args:
        response: the bytes that the frontend would get.
        logged: the exception that TorchServe has logged, of which clients hear nothing.

    Returns:
        An answer for each request of the batch.
    """
    code, message, answers = read_response(response)
    whole = ""
    if code != _OK:
        why = f": {cause(logged)}" if logged is not None else ""
        whole = f"its answer is {code} {message}{why}"
    found = []
    for each in answers:
        text = " ".join(each.body.decode("utf-8", errors="replace").split())
        own = "" if each.status == _OK else f"its answer is {each.status} {each.phrase}: {text}"
        found.append(Answer(each.status, each.content_type, each.body, whole or own))
    return found


def cause(error: BaseException) -> str:
    """One line on what a model raised."""
    # An ImportError in a handler file sends the loader after a built-in handler of that name,
    # whose absence then hides the first error.
    missing = isinstance(error, ModuleNotFoundError) and str(error.name).startswith("ts.")
    if missing and isinstance(error.__context__, ImportError):
        error = error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())


def is_same(one: Answer, other: Answer, *, loose: bool = False) -> bool:
    """Whether a client gets the same; `loose` compares the status only."""
    if one.status != other.status:
        return False
    # The text of a failure may depend on the batch, as its request ids do.
    if loose or one.status != _OK:
        return True
    return one.content_type == other.content_type and _is_same_body(one.body, other.body)


def _is_same_body(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    try:
        return _is_same_value(json.loads(one), json.loads(other))
    except (ValueError, RecursionError):
        return False


def _is_same_value(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _is_same_value(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same_value, one, other))
    if float in (type(one), type(other)) and {type(one), type(other)} <= {float, int}:
        is_close = math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
        return is_close or (math.isnan(one) and math.isnan(other))
    # Whole numbers are counts, labels and ids: the next number is another one.
    return type(one) is type(other) and bool(one == other)


def _shown(body: bytes) -> str:
    try:
        text = " ".join(body.decode("utf-8").split())
    except UnicodeDecodeError:
        return f"({len(body)} bytes)"
    return _shortened(text) if text.isprintable() else f"({len(body)} bytes)"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def readable(body: bytes) -> str:
    """Lay JSON out on several lines, leave text as it is, and give anything else by its size."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(body)} bytes"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        readable = all(char.isprintable() or char.isspace() for char in text)
        return text if readable else f"{len(body)} bytes"
