"""All that one stage stores and loads, itself and in the functions that it calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from micro_batch_handler.config import STAGES
from micro_batch_handler.torchserve.reading.source import DEFS, Def, Function, arguments_of

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
"""Packages whose `handle` only calls the stages."""

NOT_FOLLOWED = {"initialize", "__init__"}
"""They store before the first batch."""

MOST_CALLS = 3000
"""Functions that are read for one stage, at most: no handler calls so many."""


class Place(NamedTuple):
    """Something that outlives the call, for which an expression stands.

    Attributes:
        key: `.x` for `self.x`, whichever class has it; `module:N` for a name of a module.
        shown: as it stands in the source.
    """

    key: str
    shown: str

    @property
    def holds(self) -> bool:
        """Whether it is an attribute or a name of a module."""
        return self.key not in ("self", "class", "context", "wrapped")


WRAPPED = Place("wrapped", "")
"""An argument of a decorator, such as the method under it."""

SELF = Place("self", "self")
CONTEXT = Place("context", "context")
CONTEXTS = frozenset({"context", ".context", "._context", ".ctx", "._ctx"})
"""All stages read the context. What a stage stores there is shared only if read by its name."""

How = Literal["bound", "changed", "index", "slice", "result"]
"""How a store writes: it binds a new value or changes the old one, which it may do in place: at an
index, at a slice or as a whole, or as a whole with the result as the expression's value."""

Guard = tuple[str, int]
"""The key of what an `if` found missing, and the id of that `if`."""


class Store(NamedTuple):
    """A place that gets a value, or whose value is changed.

    Attributes:
        place: the attribute, or the name of the module.
        spot: its full name; for an attribute of the object there, that name: `self.helper.x`.
        line: in its file.
        guards: of the `if`s around it.
        how: it is written.
        is_common: whether all rows have the value: the context, or in `handle` a clock or count.
    """

    place: Place
    spot: str
    line: int
    guards: frozenset[Guard]
    how: How
    is_common: bool


class Task(NamedTuple):
    """A function to read, the places that its arguments stand for, and the guards of its call."""

    function: Function
    given: Mapping[str, Place]
    guards: frozenset[Guard]


class Accesses:
    """The stores and loads of a stage, and the functions that are still to be read for it.

    Attributes:
        stage: its name, or `handle`.
        stores: in the order of reading.
        loads: the line of the first load, by key.
        gives: keys whose value is used, not only changed.
        escapes: whether `self` is handed to something that cannot be read.
        tasks: functions that are still to be read.
        read: functions that were read.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.stores: list[Store] = []
        self.loads: dict[str, int] = {}
        self.gives: set[str] = set()
        self.escapes = False
        self.tasks: list[Task] = []
        self.read: list[Task] = []
        # A stage that `handle` calls is read as a stage, not as a part of `handle`.
        self._passed = NOT_FOLLOWED | (set(STAGES) if stage == HANDLE else {HANDLE})
        self._seen: set[Any] = set()

    def load(self, place: Place, node: ast.AST, *, gives: bool = True) -> None:
        """A place is read."""
        self.loads.setdefault(place.key, getattr(node, "lineno", 0))
        if gives:
            self.gives.add(place.key)

    def follow(self, task: Task, name: str) -> None:
        """Read a function later that the source calls `name`, unless it is no part of the stage."""
        if task.function.at < 0 or name not in self._passed:
            self.begin(task)

    def begin(self, task: Task) -> None:
        """Read a function later; for the same arguments and guards only once."""
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
        for node, names in _wrappers(function):
            around = dict.fromkeys(names, WRAPPED)
            self.begin(Task(replace(function, node=node), around, guards))


def _wrappers(function: Function) -> Iterator[tuple[Def, set[str]]]:
    """The functions that decorators of the same file put around a method, and their free names."""
    for mark in function.node.decorator_list:
        called = ast.unparse(mark).split("(")[0]
        decorator = function.module.functions.get(called)
        inner = [it for it in ast.walk(decorator) if isinstance(it, DEFS)] if decorator else []
        names = {name for node in inner for name in arguments_of(node)}
        for node in inner[1:]:
            if not any(isinstance(it, DEFS) for it in ast.walk(node) if it is not node):
                yield node, names - set(arguments_of(node))
