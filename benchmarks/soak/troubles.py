"""The faults of a soak, and the outcome that each must have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from ts.utils.util import PredictionException

from micro_batch_handler.config import STAGES

BATCH_SIZE = 32
STAGE_TIMEOUT_S = 1.0
PATIENCE_S = 20.0
OK = 200
BAD_REQUEST = 400
SERVER_ERROR = 500
TIMED_OUT = 504
OUT_OF_RESOURCES = 507
SECRET = "secret"  # noqa: S105  (stands in the texts of errors, which no client may see)


class MuteError(Exception):
    """An error that cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


class HoldingError(Exception):
    """An error that holds a tensor."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.tensor = torch.zeros(10_000)


def recurse(depth: int = 0) -> int:
    """Until Python has enough."""
    return recurse(depth + 1)


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError(SECRET),
    "KeyError": lambda: KeyError(SECRET),
    "OSError": lambda: OSError(2, f"{SECRET}\r\n[METRICS]"),
    "AssertionError": AssertionError,
    "StopIteration": lambda: StopIteration(SECRET),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "BaseException": lambda: BaseException(SECRET),
    "MuteError": MuteError,
    "HoldingError": HoldingError,
    "MemoryError": lambda: MemoryError(SECRET),
    "OutOfMemoryError": lambda: torch.OutOfMemoryError(SECRET),
    "PredictionException": lambda: PredictionException("as you\r\nsay, señor", 422),
}

RETURNED: dict[str, Callable[[list[int]], Any]] = {
    "None": lambda _: None,
    "a dict": lambda rows: dict(enumerate(rows)),
    "a string": lambda rows: "x" * len(rows),
    "a generator": lambda rows: (row for row in rows),
    "too short": lambda rows: rows[:-1],
    "too long": lambda rows: [*rows, rows[0]],
}


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    return deep


UNENCODABLE: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a lone surrogate": lambda: "\ud800",
    "a circle": _circle,
    "deep nesting": _deep,
    "a key that is no text": lambda: {(1, 2): 3},
}


@dataclass(frozen=True)
class Fault:
    """The fault that one request causes in a stage."""

    stage: str
    kind: str

    @property
    def outcomes(self) -> set[tuple[int, str]]:
        """The status and the beginning of the message that it must end with."""
        if self.kind == "not JSON":
            return {(BAD_REQUEST, "preprocess: the body is not valid JSON: ")}
        if self.kind == "PredictionException":
            return {(422, "as you\r\nsay, señor")}
        if self.kind in {"MemoryError", "OutOfMemoryError"}:
            return {(OUT_OF_RESOURCES, "Out of resources")}
        if self.kind in RETURNED:
            # A payload that cannot be counted fails in the next stage.
            return {(SERVER_ERROR, f"{stage} failed") for stage in STAGES}
        code = BAD_REQUEST if self.stage == "preprocess" else SERVER_ERROR
        return {(code, f"{self.stage} failed")}


@dataclass
class Trouble:
    """The faults of one batch, by the numbers of its requests."""

    faults: dict[int, Fault] = field(default_factory=dict)
    hang: tuple[str, int] | None = None
    """A stage that hangs while it works on this request."""
    once: tuple[str, str] | None = None
    """A stage whose first call raises this, whatever it works on."""
    capacity: int = BATCH_SIZE
    """More rows of inference than this do not fit into memory."""
