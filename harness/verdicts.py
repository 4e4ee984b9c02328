"""What became of a coded image: its own answer, another's, or none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from harness.images import Kind

__all__ = ["EXPECTED", "NO_ANSWER", "Outcome", "Result", "judge"]

Outcome: TypeAlias = Literal["right", "swapped", "failed"]
"""A bad image is `right` with the status of its kind; `swapped` is another request's answer."""

EXPECTED = {
    Kind.CORRUPT: (400, "preprocess failed"),
    Kind.RAISING: (500, "inference failed"),
    Kind.HANGING: (504, "preprocess"),
}
"""Status of each kind of bad image, and how the message of its body begins."""

NO_ANSWER = 0
"""The status of a request whose connection broke or that waited too long."""

OK = 200


@dataclass(frozen=True)
class Result:
    """What became of one request."""

    kind: Kind
    outcome: Outcome
    status: int
    """Of HTTP, or NO_ANSWER."""
    text: str
    """The answer's body, if it is neither right nor expected."""
    latency_s: float


def judge(number: int, kind: Kind, status: int, text: str) -> Outcome:
    """Hold the answer against what the image with this number must get."""
    body = _decoded(text)
    if kind is Kind.GOOD:
        if status == OK:
            return "right" if body == {"number": number} else "swapped"
        return "failed"
    code, message = EXPECTED[kind]
    own = status == body.get("code") == code and str(body.get("message")).startswith(message)
    return "right" if own else "failed"


def _decoded(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
