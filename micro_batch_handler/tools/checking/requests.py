"""The requests that a check sends: the samples in turn, each with headers and an id of its own.

The headers are those that the handler's files ask for by name. Every request has another value in
them, so an answer that was made with another request's header shows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.checking.worker import request

__all__ = ["MOST_REQUESTS", "Requests", "header_names"]

REQUESTS = 6
"""Enough for micro-batches of 1 and of 2, with several of both."""

MOST_REQUESTS = 16
"""However many samples there are."""

_ASKED_BY = {"get_request_header": 1, "get_request_property": 0}
"""TorchServe's methods that read a header, and which of their arguments is its name."""

_NOT_OURS = {"body", "data", "content-type"}
"""Names that every request has already, with values that matter."""


@dataclass(frozen=True)
class Requests:
    """The requests of a check."""

    samples: Sequence[Path]
    """One for each request."""

    names: Sequence[str]
    """The headers that each request has a value of its own for."""

    unused: int = 0
    """The number of samples that are too many to be sent."""

    @classmethod
    def of(cls, model: Path, samples: Sequence[Path]) -> Requests:
        """The requests for the model in a folder."""
        number = min(max(REQUESTS, len(samples)), MOST_REQUESTS)
        taken = [samples[at % len(samples)] for at in range(number)]
        return cls(taken, header_names(model), max(len(samples) - number, 0))

    def __len__(self) -> int:
        return len(self.samples)

    def without_headers(self) -> Requests:
        """The same requests, with no more headers than the samples bring."""
        return replace(self, names=())

    def first(self, number: int) -> Requests:
        """The first few of these."""
        return replace(self, samples=self.samples[:number])

    def made(self, at: int) -> Any:
        """One request as the worker reads it; fresh each time, since handlers may change it."""
        read = request(self.samples[at])
        value = f"check-{at}".encode()
        read["requestId"] = bytearray(value)
        read["headers"] += [
            {"name": bytearray(name.encode()), "value": bytearray(value)} for name in self.names
        ]
        return read


def header_names(folder: Path) -> list[str]:
    """The names of the headers that files in the folder read, if the names are written there."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # if the handler needs that file, loading it says more
        found.update(_names_in(tree))
    return sorted(name for name in found if name and name.lower() not in _NOT_OURS)


def _names_in(tree: ast.Module) -> Iterator[str]:
    constants = _constants(tree)
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        place = _ASKED_BY.get(call.func.attr)
        if place is None:
            continue
        named = [keyword.value for keyword in call.keywords if keyword.arg == "key"]
        for argument in [*call.args[place : place + 1], *named]:
            yield from _texts(argument, constants)


def _constants(tree: ast.Module) -> dict[str, str]:
    """The texts that names stand for, wherever in the file they are assigned."""
    return {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _texts(argument: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        yield argument.value
    name = getattr(argument, "id", getattr(argument, "attr", None))  # NAME or self.NAME
    if name in constants:
        yield constants[name]
