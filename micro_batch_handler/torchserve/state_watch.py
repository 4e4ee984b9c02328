"""Changes of a handler's state during its calls, for what reading its class cannot show.

The attributes of the handler, of its classes, of its helper objects and of the modules beside it
are compared with what they were when the batch began. If one differs after a call, that call has
changed what other calls may be reading.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from micro_batch_handler.torchserve.snapshot import Snapshot

__all__ = ["StateWatch", "own_classes"]

NOT_OF_USERS = ("micro_batch_handler.", "ts.", "builtins.", "abc.")
"""The packages and modules whose classes keep nothing between stages."""

SET_BY_US = ("context", "_micro_batch")


class StateWatch:
    """Compares the state of one handler with what it was.

    Args:
        handler: whose state is watched.
        unwatched: names, as `changed` returns them, that are ignored with all that they hold: no
            other stage reads them.
    """

    def __init__(self, handler: Any, unwatched: Collection[str] = ()) -> None:
        self._handler = handler
        self._unwatched = frozenset(unwatched)
        self._classes = own_classes(type(handler))
        self._folders = {_folder(kind) for kind in self._classes} - {None}
        self._beside: list[ModuleType] | None = None
        self._then: list[Snapshot] = []

    def begin(self) -> None:
        """A batch begins: later changes are against the state of now."""
        if self._then and not any(place.changed() for place in self._then):
            return
        self._then = [
            Snapshot(place, names, {key for key in names if self._ignores(place, key)})
            for place, names in self._places()
        ]

    def changed(self, *, loading: bool = True) -> str:
        """The name of something that has changed since `begin`; empty if nothing has.

        Args:
            loading: whether an attribute that was missing may have been set. False where several
                calls have returned since, each of which may have set it.
        """
        for place in self._then:
            name = place.changed(loading=loading)
            if name and not self._ignores(place.name, name):
                return f"{place.name}.{name}"
        return ""

    def forget(self) -> None:
        """Let go of all state: nothing is watched until `begin`."""
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
        """Objects of classes beside the handler's. Those of a library change without meaning."""
        for name, value in list(names.items()):
            kind = type(value)
            own = not issubclass(kind, torch.nn.Module) and _folder(kind) in self._folders
            if own and not self._ignores(place, name):
                with suppress(Exception):  # an object may resist being looked at
                    yield f"{place}.{name}", vars(value)

    def _modules(self) -> Iterator[ModuleType]:
        """The modules in the handler's folder that it uses; not its own, which has been read."""
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


def own_classes(kind: type) -> list[type]:
    """The classes of a handler that its users wrote, in the order of its MRO."""
    return [base for base in kind.__mro__ if not f"{base.__module__}.".startswith(NOT_OF_USERS)]


def _folder(kind: type) -> Path | None:
    """The folder of the file that defines a class."""
    return _folder_of(str(kind.__module__))


@lru_cache(maxsize=1024)  # of names: a class would be kept alive
def _folder_of(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file).parent if isinstance(file, str) else None
