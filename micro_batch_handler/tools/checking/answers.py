"""Answers to one request, compared; and an answer in a few words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from micro_batch_handler.tools.checking.worker import Answer

__all__ = ["Reply", "is_same"]

_OK = 200

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""A model may compute a row otherwise with other rows beside it, in the last digits."""

_SHOWN = 160
"""Characters of a body."""


@dataclass(frozen=True)
class Reply:
    """What came for one request."""

    answer: Answer

    problem: str
    """Why it is no good answer, as `failure` says it; nothing if it is one."""

    def __str__(self) -> str:
        if self.problem:
            return _shortened(self.problem.removeprefix("its answer is ").strip())
        kind = f" {self.answer.content_type}" if self.answer.content_type else ""
        return f"{self.answer.status}{kind} {_shown(self.answer.body)}"


def is_same(one: Reply, other: Reply, *, loose: bool = False) -> bool:
    """Whether a client gets the same; `loose` looks at the status only."""
    first, second = one.answer, other.answer
    if first.status != second.status:
        return False
    # What a failure says may depend on the batch, as its request ids do.
    if loose or first.status != _OK:
        return True
    return first.content_type == second.content_type and _same_body(first.body, second.body)


def _same_body(one: bytes, other: bytes) -> bool:
    if one == other:
        return True
    try:
        return _same_value(json.loads(one), json.loads(other))
    except (ValueError, RecursionError):
        return False


def _same_value(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same_value(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_value, one, other))
    if float in (type(one), type(other)) and {type(one), type(other)} <= {float, int}:
        return _same_number(one, other)
    # Whole numbers are counts, labels and ids, where the next one is another.
    return type(one) is type(other) and bool(one == other)


def _same_number(one: float, other: float) -> bool:
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _shown(body: bytes) -> str:
    try:
        text = " ".join(body.decode("utf-8").split())
    except UnicodeDecodeError:
        return f"({len(body)} bytes)"
    return _shortened(text) if text.isprintable() else f"({len(body)} bytes)"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
