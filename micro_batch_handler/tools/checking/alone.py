"""Each request asked alone: what its answer should be, and whether it is the same each time.

The samples are sent in turn, each with an id of its own and with the headers that the handler's
files ask for by name. Every request has another value in them, so an answer that was made with
another request's header shows.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.checking.answers import Answer, is_same
from micro_batch_handler.tools.checking.worker import WorkerLog, predict, request

__all__ = [
    "MOST_REQUESTS",
    "Alone",
    "CheckError",
    "Model",
    "header_names",
    "request_of",
    "samples_in_turn",
]

REQUESTS = 6
"""Enough for micro-batches of 1 and of 2, with several of both."""

MOST_REQUESTS = 16
"""The most requests, however many samples there are."""

_ASKED_BY = {"get_request_header": 1, "get_request_property": 0}
"""TorchServe's methods that read a header, and which of their arguments is its name."""

_ALREADY_THERE = {"body", "data", "content-type"}
"""Names that every request has already, with values that matter."""

_BATCHES_SHARE = 0.75
"""The share of the time that is left for batches when no more requests are asked alone."""


class CheckError(Exception):
    """The check has failed; the message says why."""


@dataclass
class Model:
    """A loaded model, and the requests to send it."""

    service: Any
    """TorchServe's."""
    samples: Sequence[Path]
    """Files with the body of one request each, taken in turn: one for each request."""
    headers: Sequence[str]
    """Names of headers to send."""
    log: WorkerLog
    """Hears the root logger."""
    until_s: float
    """The time on the clock after which no call should begin."""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.too_many = len(self.samples) > MOST_REQUESTS
        """Whether some samples are not sent."""
        self.samples = samples_in_turn(self.samples)

    def ask(self, places: Sequence[int]) -> list[Answer]:
        """Send these requests in one batch; return an answer to each."""
        batch = [request_of(self.samples[at], at, self.headers) for at in places]
        return predict(self.service, batch, self.log)

    def left_s(self) -> float:
        """The time that is left."""
        return self.until_s - self.clock()

    def has_refused_settings(self) -> bool:
        """Whether the archive's package took the last call's settings for ones that cannot work."""
        kind = type(self.log.last_error)
        return kind.__name__ == "ConfigError" and kind.__module__.startswith("micro_batch_handler")


class Alone:
    """The answers that each request gets alone.

    As many requests are sent as the time allows, at least one; the model forgets the others.

    Raises:
        CheckError: a request has no good answer alone.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answers: list[Answer] = []
        """By the request's place."""
        self.unsteady: set[int] = set()
        """The places of requests whose answers are not the same each time."""
        self.left_out: Sequence[str] = ()
        """Headers that are not sent, since requests with a text of ours in them fail."""
        before_s = model.left_s()
        while len(self.answers) < len(model.samples) and self._has_time(before_s):
            self._ask_next()
        self.seconds = before_s - model.left_s()
        """How long all of them took."""
        self.unasked = len(model.samples) - len(self.answers)
        """The number of requests for which there was no time."""
        model.samples = model.samples[: len(self.answers)]

    def again(self, places: Sequence[int], times: int = 1) -> None:
        """Ask some again, to learn which answers are not the same each time."""
        for at in places:
            again = [self.model.ask([at])[0] for _ in range(times)]
            if not all(is_same(self.answers[at], answer) for answer in again):
                self.unsteady.add(at)

    def _has_time(self, at_first_s: float) -> bool:
        left_s, asked = self.model.left_s(), len(self.answers)
        # The first call is often slow, and only two requests can be in each other's way.
        return not asked or left_s > (0 if asked == 1 else _BATCHES_SHARE * at_first_s)

    def _ask_next(self) -> None:
        at, model = len(self.answers), self.model
        (answer,) = model.ask([at])
        if answer.problem and model.headers:
            headers, model.headers = model.headers, ()
            (answer,) = model.ask([at])
            if not answer.problem:
                # All once more, so that all are asked alike.
                self.left_out = headers
                self.answers.clear()
                return
        if answer.problem:
            several = len(set(model.samples)) > 1
            name = f"{model.samples[at].name}: " if several else ""
            raise CheckError(name + answer.problem)
        self.answers.append(answer)


def samples_in_turn(samples: Sequence[Path]) -> list[Path]:
    """The sample of each request."""
    number = min(max(REQUESTS, len(samples)), MOST_REQUESTS)
    return [samples[at % len(samples)] for at in range(number)]


def request_of(sample: Path, place: int, headers: Sequence[str]) -> Any:
    """One request as the worker reads it; fresh each time, since handlers may change it."""
    read = request(sample)
    value = f"check-{place}".encode()
    read["requestId"] = bytearray(value)
    read["headers"] += [
        {"name": bytearray(name.encode()), "value": bytearray(value)} for name in headers
    ]
    return read


def header_names(folder: Path) -> list[str]:
    """The names of the headers that files in the folder read, if the names are written there."""
    found = {name for path in folder.glob("*.py") for name in _names_in(path)}
    return sorted(name for name in found if name and name.lower() not in _ALREADY_THERE)


def _names_in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # if the handler needs that file, loading it says more
    constants = _constants(tree)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        place = _ASKED_BY.get(call.func.attr)
        if place is None:
            continue
        named = [keyword.value for keyword in call.keywords if keyword.arg == "key"]
        for argument in [*call.args[place : place + 1], *named]:
            name = getattr(argument, "id", getattr(argument, "attr", ""))  # NAME or self.NAME
            text = argument.value if isinstance(argument, ast.Constant) else constants.get(name)
            if isinstance(text, str):
                yield text


def _constants(tree: ast.Module) -> dict[str, object]:
    """The constants that names stand for, wherever in the file they are assigned."""
    return {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
