"""What one stage does, with all that it calls: what it stores, what it loads, and where."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from micro_batch_handler.config import STAGES
from micro_batch_handler.torchserve.reading.source import Function, wrappers

__all__ = [
    "CONTEXT",
    "CONTEXTS",
    "HANDLE",
    "SELF",
    "WRAPPED",
    "Accesses",
    "Guard",
    "How",
    "Place",
    "Store",
    "Task",
]

HANDLE = "handle"

NOT_OF_USERS = ("ts.", "micro_batch_handler.")
"""Modules whose `handle` only calls the stages."""

NOT_FOLLOWED = {"initialize", "__init__"}
"""What they store is there before the first batch."""

MOST_CALLS = 3000
"""That are followed from one stage: no handler has them."""


class Place(NamedTuple):
    """What an expression stands for: something that outlives the call.

    Attributes:
        key: `.x` for `self.x`, of whichever class; `module:N` for a name of a module.
        shown: as in the source.
    """

    key: str
    shown: str

    @property
    def holds(self) -> bool:
        """Whether it is an attribute or a name of the module."""
        return self.key not in ("self", "class", "context", "wrapped")


WRAPPED = Place("wrapped", "")
"""What a decorator was given, such as the method under it."""

SELF = Place("self", "self")
CONTEXT = Place("context", "context")
CONTEXTS = frozenset({"context", ".context", "._context", ".ctx", "._ctx"})
"""All stages read the context; what one stores there another must read by its name."""

How = Literal["bound", "changed", "index", "slice", "result"]
"""How a store writes: it gives a new value, or changes the old one, in place at an index, in place
at a slice or as a whole, or in place to what is the value of the expression."""

Guard = tuple[str, int]
"""The key of what an `if` found missing, and which `if`."""


class Store(NamedTuple):
    """A place that gets a value, or whose value is changed.

    Attributes:
        place: the attribute, or the name of the module.
        spot: its name; of an attribute of what it holds, the name of that: `self.helper.x`.
        line: in its file.
        guards: around it.
        how: it is written.
        is_figure: whether what is stored is about no row: the context, a clock or a count in
            `handle`.
    """

    place: Place
    spot: str
    line: int
    guards: frozenset[Guard]
    how: How
    is_figure: bool


class Task(NamedTuple):
    """A function to read, what its arguments are known to stand for, what guards its call."""

    function: Function
    given: Mapping[str, Place]
    guards: frozenset[Guard]


class Accesses:
    """What a stage does.

    Args:
        stage: its name, or `handle`.

    Attributes:
        stores: all of them.
        loads: the line of the first, by key.
        gives: keys of what is loaded, and not only to be changed.
        escapes: whether `self` is handed to something that cannot be read.
        tasks: what is still to be read.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.stores: list[Store] = []
        self.loads: dict[str, int] = {}
        self.gives: set[str] = set()
        self.escapes = False
        self.tasks: list[Task] = []
        # Stages are stages, also where `handle` calls them.
        self._passed = NOT_FOLLOWED | (set(STAGES) if stage == HANDLE else {HANDLE})
        self._seen: set[Any] = set()

    def load(self, place: Place, node: ast.AST, *, gives: bool = True) -> None:
        """A place is read."""
        self.loads.setdefault(place.key, getattr(node, "lineno", 0))
        if gives:
            self.gives.add(place.key)

    def follow(self, task: Task, name: str) -> None:
        """Read a function, known by a name, later, unless it is no part of the stage."""
        if task.function.at < 0 or name not in self._passed:
            self.begin(task)

    def begin(self, task: Task) -> None:
        """Read a function later, once."""
        function, given, guards = task
        is_theirs = f"{function.module.name}.".startswith(NOT_OF_USERS)
        call = (id(function.node), function.at, frozenset(given.items()), guards)
        if call in self._seen or (function.node.name == HANDLE and is_theirs):
            return
        if len(self._seen) >= MOST_CALLS:
            self.escapes = True
            return
        self._seen.add(call)
        self.tasks.append(task)
        for node, names in wrappers(function):
            around = dict.fromkeys(names, WRAPPED)
            self.begin(Task(replace(function, node=node), around, guards))
