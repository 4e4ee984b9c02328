"""Changes of a handler's state during its calls, where reading its class cannot tell.

Looked at are the attributes of the handler, of its classes and of helper objects of its own: which
objects they are, and what lists, dicts and tensors among them hold. A call that finds something
else than the batch began with has changed what other calls may be reading.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from operator import is_
from pathlib import Path
from typing import Any

import torch

__all__ = ["StateWatch", "own_classes"]

MOST_ITEMS = 64
"""Of a container that are compared one by one; of a larger one, how many there are."""

LOOKED_INTO = {list, dict, set, deque, bytearray, OrderedDict, defaultdict, torch.Tensor}
"""Of exactly these types, since others may resist it."""

NOT_OF_USERS = ("micro_batch_handler.", "ts.", "builtins", "abc")
"""Where classes come from that keep nothing between the stages."""

SET_BY_US = ("context", "_micro_batch")

_MISSING = object()
_LARGE = object()


class StateWatch:
    """The state of one handler, compared with what it was.

    Args:
        handler: whose.
        unwatched: names, as `changed` gives them, of what no other stage reads.
    """

    def __init__(self, handler: Any, unwatched: Collection[str] = ()) -> None:
        self._handler = handler
        self._unwatched = frozenset(unwatched)
        self._folders = {_folder(kind) for kind in own_classes(type(handler))} - {None}
        self._then: list[_Place] = []

    def begin(self) -> None:
        """Take what there is now for what it should be."""
        self._then = [
            _Place(name, names, {key for key in names if self._ignores(name, key)})
            for name, names in self._places()
        ]

    def changed(self) -> str:
        """The name of something that has changed since `begin`; nothing if nothing has."""
        for place in self._then:
            name = place.changed()
            if name and not self._ignores(place.name, name):
                return f"{place.name}.{name}"
        return ""

    def restore(self) -> None:
        """Put back what lists, dicts and the like held when `begin` was called."""
        for place in self._then:
            place.restore()

    def _ignores(self, place: str, name: str) -> bool:
        return (
            f"{place}.{name}" in self._unwatched
            or (place == "self" and name.startswith(SET_BY_US))
            or name.startswith("__")
        )

    def _places(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        names = vars(self._handler)
        yield "self", names
        for kind in own_classes(type(self._handler)):
            yield kind.__name__, vars(kind)
        for name, value in list(names.items()):
            # What a helper of the handler's own holds is state as well; a model or a tokenizer of
            # a library changes in ways that say nothing.
            kind = type(value)
            if not issubclass(kind, torch.nn.Module) and _folder(kind) in self._folders:
                with suppress(Exception):  # an object may resist being looked at
                    yield f"self.{name}", vars(value)


class _Place:
    """The names of one object, and what they stood for."""

    def __init__(self, name: str, names: Mapping[str, Any], ignored: Collection[str]) -> None:
        self.name = name
        self._names = names
        self._ignored = ignored
        self._then = dict(names)
        self._held = [
            (key, value, _held(value))
            for key, value in self._then.items()
            if key not in ignored and type(value) in LOOKED_INTO
        ]

    def changed(self) -> str:
        then, names = self._then, self._names
        try:
            same = len(names) == len(then) and all(map(is_, names.values(), then.values()))
            for name in () if same else names.keys() | then.keys():
                if name not in self._ignored and (
                    names.get(name, _MISSING) is not then.get(name, _MISSING)
                ):
                    return name
            for name, value, held in self._held:
                now = _held(value)
                if len(now) != len(held) or not all(map(_is_same, now, held)):
                    return name
        except RuntimeError:  # another call adds a name just now
            return next(iter(names), "")
        return ""

    def restore(self) -> None:
        """Put back what containers held."""
        for _, value, held in self._held:
            if isinstance(value, dict) and len(held) % 2 == 0:
                value.clear()
                value.update(zip(held[: len(held) // 2], held[len(held) // 2 :], strict=True))
            elif isinstance(value, (list, deque, set, bytearray)) and held[:1] != (_LARGE,):
                value.clear()
                value.update(held) if isinstance(value, set) else value.extend(held)


def own_classes(kind: type) -> list[type]:
    """The classes of a handler that its users have written."""
    return [
        base
        for base in kind.__mro__
        if not f"{base.__module__}.".startswith(NOT_OF_USERS) and base.__module__ != "builtins"
    ]


def _held(value: Any) -> tuple[Any, ...]:
    if isinstance(value, torch.Tensor):
        return () if value.is_inference() else (value._version,)  # noqa: SLF001  (its only name)
    if len(value) > MOST_ITEMS:
        return (_LARGE, len(value), None)
    return (*value.keys(), *value.values()) if isinstance(value, dict) else tuple(value)


def _is_same(now: Any, then: Any) -> bool:
    """Whether these are one object; numbers are if they are equal."""
    return now is then or (type(now) is int and type(then) is int and now == then)


def _folder(kind: type) -> Path | None:
    """Where a class is written."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).parent
