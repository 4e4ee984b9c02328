"""The attributes of one object as they were, to find what a call has changed."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from operator import is_
from typing import Any

import torch

__all__ = ["Snapshot"]

MOST_ITEMS = 64
"""Items of a container that are compared one by one. Of a larger one, only the length is."""

LOOKED_INTO = (list, dict, set, deque, bytearray, OrderedDict, defaultdict)
"""Types whose items are compared, and those of containers in them; no subclasses of these."""

_MISSING = object()


class Snapshot:
    """What the names of one object stood for, and what lists, dicts and tensors among them held.

    Args:
        name: of the object.
        names: its namespace, which is looked at again.
        ignored: names that may change.
    """

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
            (key, each, len(each), tuple(_view(each)) if len(each) <= MOST_ITEMS else ())
            for key, value in self._then.items()
            for each in _containers(value)
        ]

    def changed(self, *, loading: bool = True) -> str:
        """The name whose value has changed; empty if none has.

        Args:
            loading: whether a name that was missing, or None, may have been set: it counts from
                its next change on.
        """
        try:
            return self._name_changed(loading) or self._content_changed()
        except RuntimeError:  # another call adds a name meanwhile
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
        for name, held, length, items in self._held:
            if len(held) != length or not all(map(is_, items, _view(held))):
                return name
        return ""

    def restore(self) -> None:
        """Take out of containers what was added. What was taken out stays out."""
        for _, held, length, _ in self._held:
            if len(held) <= length or length > MOST_ITEMS:
                continue
            if isinstance(held, (list, deque, bytearray)):
                while len(held) > length:
                    held.pop()
            elif isinstance(held, dict):
                for key in list(held)[length:]:
                    held.pop(key, None)


def _containers(value: Any) -> Iterator[Any]:
    """The value, if it is a container whose items are compared, and such containers in it."""
    if type(value) not in LOOKED_INTO:
        return
    yield value
    if len(value) <= MOST_ITEMS:
        yield from (item for item in _view(value) if type(item) in LOOKED_INTO)


def _view(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container
