"""The requests of a batch, which a stage may take apart and still get again after a fault."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from typing import Any

__all__ = ["Rows"]


class Rows:
    """The rows that TorchServe handed over.

    A handler may pop the body out of its row, or a key out of a decoded JSON body. So the first
    taker gets the row itself, and what could change in it is kept as bytes for a second one:
    `marshal` copies a decoded JSON body some ten times faster than it was decoded. Only what has no
    JSON form (from an envelope, perhaps) is shared.
    """

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows
        self._kept: list[Any] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Sequence[int]) -> list[Any]:
        """The rows of these requests; each index is in one thread at a time."""
        return [self._take(index) for index in indices]

    def _take(self, index: int) -> Any:
        if self._kept[index] is not None:
            return _restore(self._kept[index])
        row = self._rows[index]
        self._kept[index] = _keep(row)
        return row


class _Bytes:
    """A dict or a list as marshal writes it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _keep(row: Any) -> Any:
    if type(row) is dict:
        return {key: _keep_value(value) for key, value in row.items()}
    return _keep_value(row)


def _keep_value(value: Any) -> Any:
    if type(value) not in (dict, list):
        return value
    try:
        return _Bytes(marshal.dumps(value))
    except ValueError:  # not JSON, or nested too deeply
        return value


def _restore(kept: Any) -> Any:
    if type(kept) is dict:
        return {key: _restore_value(value) for key, value in kept.items()}
    return _restore_value(kept)


def _restore_value(value: Any) -> Any:
    return marshal.loads(value.data) if type(value) is _Bytes else value  # noqa: S302  (our own)
