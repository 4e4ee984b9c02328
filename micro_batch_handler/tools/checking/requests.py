"""The requests that a check sends: the samples in turn, each with headers and an id of its own.

The headers are those that the handler's files ask for by name. Every request has another value in
them, so an answer that was made with another request's header shows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.checking.worker import request

__all__ = ["MOST_REQUESTS", "header_names", "request_of", "samples_in_turn"]

REQUESTS = 6
"""Enough for micro-batches of 1 and of 2, with several of both."""

MOST_REQUESTS = 16
"""The most requests, however many samples there are."""

_ASKED_BY = {"get_request_header": 1, "get_request_property": 0}
"""TorchServe's methods that read a header, and which of their arguments is its name."""

_ALREADY_THERE = {"body", "data", "content-type"}
"""Names that every request has already, with values that matter."""


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
