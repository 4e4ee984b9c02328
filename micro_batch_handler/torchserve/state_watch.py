"""Changes of a handler's state during its calls, where reading its class cannot tell.

Looked at are the attributes of the handler, of its classes, of helper objects of its own and of the
modules beside it: which objects they are, and what lists, dicts and tensors among them hold. A call
that finds something else than the batch began with has changed what other calls may be reading.
What was missing, or None, and is there now has been loaded: it counts from its next change on.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from operator import is_
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

__all__ = ["StateWatch", "own_classes"]

MOST_ITEMS = 64
"""Of a container that are compared one by one; of a larger one, how many there are."""

LOOKED_INTO = (list, dict, set, deque, bytearray, OrderedDict, defaultdict)
"""Of exactly these types, since others may resist it; and those that they hold."""

NOT_OF_USERS = ("micro_batch_handler.", "ts.", "builtins.", "abc.")
"""Where classes come from that keep nothing between the stages."""

SET_BY_US = ("context", "_micro_batch")

_MISSING = object()


class StateWatch:
    """The state of one handler, compared with what it was.

    Args:
        handler: whose.
        unwatched: names, as `changed` gives them, of what no other stage reads; what they hold is
            not looked at either.
    """

    def __init__(self, handler: Any, unwatched: Collection[str] = ()) -> None:
        self._handler = handler
        self._unwatched = frozenset(unwatched)
        self._classes = own_classes(type(handler))
        self._folders = {_folder(kind) for kind in self._classes} - {None}
        self._beside: list[ModuleType] | None = None
        self._then: list[_Place] = []

    def begin(self) -> None:
        """Take what there is now for what it should be."""
        if self._then and not any(place.changed() for place in self._then):
            return
        self._then = [
            _Place(place, names, {key for key in names if self._ignores(place, key)})
            for place, names in self._places()
        ]

    def changed(self, *, loading: bool = True) -> str:
        """The name of something that has changed since `begin`; nothing if nothing has.

        Args:
            loading: whether what was missing may be there now. Not where several calls have
                returned since, each of which may have set it.
        """
        for place in self._then:
            name = place.changed(loading=loading)
            if name and not self._ignores(place.name, name):
                return f"{place.name}.{name}"
        return ""

    def forget(self) -> None:
        """Hold nothing any more."""
        self._then = []

    def restore(self) -> None:
        """Take out of lists, dicts and sets what has been added since `begin`."""
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
        for kind in self._classes:
            yield kind.__name__, vars(kind)
        yield from self._helpers("self", names)
        if self._beside is None:
            self._beside = list(self._modules())
        for module in self._beside:
            yield module.__name__, vars(module)
            yield from self._helpers(module.__name__, vars(module))

    def _helpers(
        self, place: str, names: Mapping[str, Any]
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Objects of the handler's own classes; a library's change in ways that say nothing."""
        for name, value in list(names.items()):
            kind = type(value)
            own = not issubclass(kind, torch.nn.Module) and _folder(kind) in self._folders
            if own and not self._ignores(place, name):
                with suppress(Exception):  # an object may resist being looked at
                    yield f"{place}.{name}", vars(value)

    def _modules(self) -> Iterator[ModuleType]:
        """The modules beside the handler's that it uses; its own has been read."""
        seen = {kind.__module__ for kind in self._classes}
        for name in list(seen):
            for value in list(vars(sys.modules.get(name, sys)).values()):
                kind = type(value)
                if kind is ModuleType:
                    beside = value
                else:
                    of = value if issubclass(kind, (type, FunctionType)) else kind
                    beside = sys.modules.get(str(of.__module__), sys)
                if beside.__name__ not in seen and _folder_of(beside.__name__) in self._folders:
                    seen.add(beside.__name__)
                    yield beside


class _Place:
    """The names of one object, and what they stood for."""

    def __init__(self, name: str, names: Mapping[str, Any], ignored: Collection[str]) -> None:
        self.name = name
        self._names = names
        self._ignored = ignored
        self._then = {key: value for key, value in names.items() if key not in ignored}
        self._count = len(names)
        self._tensors = [
            (key, value, value._version)  # noqa: SLF001  (its only name)
            for key, value in self._then.items()
            if type(value) is torch.Tensor and not value.is_inference()
        ]
        self._held = [
            (key, each) for key, value in self._then.items() for each in _containers(value)
        ]
        self._lengths = [len(each) for _, each in self._held]
        self._views = [_view(each) for _, each in self._held if len(each) <= MOST_ITEMS]
        self._items = tuple(chain.from_iterable(self._views))

    def changed(self, *, loading: bool = True) -> str:
        """The name of what has changed."""
        try:
            return self._name_changed(loading) or self._content_changed()
        except RuntimeError:  # another call adds something just now
            return next(iter(self._then), "")

    def _name_changed(self, loading: bool) -> str:
        then, names = self._then, self._names
        same = len(names) == self._count and all(map(is_, map(names.get, then), then.values()))
        for name in () if same else list(names.keys() | then.keys()):
            before, now = then.get(name, _MISSING), names.get(name, _MISSING)
            if name in self._ignored or before is now:
                continue
            if not (loading and (before is _MISSING or before is None)):
                return name
            then[name] = now
        self._count = len(names)
        return ""

    def _content_changed(self) -> str:
        for name, tensor, version in self._tensors:
            if tensor._version != version:  # noqa: SLF001
                return name
        lengths = [len(each) for _, each in self._held]
        if lengths == self._lengths:
            items = tuple(chain.from_iterable(self._views))
            if len(items) == len(self._items) and all(map(is_, items, self._items)):
                return ""
        return next(
            (
                name
                for (name, _), now, before in zip(self._held, lengths, self._lengths, strict=True)
                if now != before
            ),
            self._held[0][0] if self._held else "",
        )

    def restore(self) -> None:
        """Take out of containers what was added; what somebody took out meanwhile stays out."""
        for (_, held), length in zip(self._held, self._lengths, strict=True):
            if len(held) <= length or length > MOST_ITEMS:
                continue
            if isinstance(held, (list, deque, bytearray)):
                while len(held) > length:
                    held.pop()
            elif isinstance(held, dict):
                for key in list(held)[length:]:
                    held.pop(key, None)


def own_classes(kind: type) -> list[type]:
    """The classes of a handler that its users have written."""
    return [base for base in kind.__mro__ if not f"{base.__module__}.".startswith(NOT_OF_USERS)]


def _containers(value: Any) -> Iterator[Any]:
    """A container that can be looked into, and those in it."""
    if type(value) not in LOOKED_INTO:
        return
    yield value
    if len(value) <= MOST_ITEMS:
        yield from (item for item in _view(value) if type(item) in LOOKED_INTO)


def _view(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _folder(kind: type) -> Path | None:
    """Where a class is written."""
    return _folder_of(str(kind.__module__))


@lru_cache(maxsize=1024)  # of names: a class would be kept alive
def _folder_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).parent if isinstance(file, str) else None
