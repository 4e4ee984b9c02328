"""The requests of a batch, which a stage may take apart and still get again after a fault."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Requests", "Unreadable"]


class Unreadable(Exception):  # noqa: N818  (of some requests; nothing was called)
    """Some requests of a call cannot be decoded.

    Args:
        errors: why not, by the place of the request in the batch.
    """

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__(errors)
        self.errors = errors


class Requests:
    """The rows that TorchServe handed over.

    A handler may pop the body out of its row, a key out of a decoded JSON body, or scale the floats
    in a buffer where they are. So the first taker gets the row itself, and what could change in it
    is kept as bytes for a second one. For a body as it came, that is a copy; `marshal` makes bytes
    of a decoded one some ten times faster than it was decoded. Only what has no JSON form (from an
    envelope, perhaps) is shared.

    Args:
        rows: one for each request.
        decode: makes of the place of a request and its row, which it may change, what a stage gets;
            called for each taker. None to give out the rows as they are.
    """

    def __init__(
        self, rows: Sequence[Any], decode: Callable[[int, Any], Any] | None = None
    ) -> None:
        self._rows = rows
        self._kept: list[Any] = [None] * len(rows)
        self._decode = decode

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, indices: Sequence[int]) -> list[Any]:
        """The rows of these requests; each index is in one thread at a time.

        Raises:
            Unreadable: some of them cannot be decoded.
        """
        rows = []
        errors: dict[int, Exception] = {}
        for index in indices:
            try:
                rows.append(self._take(index))
            except Exception as error:  # noqa: PERF203  (each row's own)
                errors[index] = error
        if errors:
            raise Unreadable(errors)
        return rows

    def _take(self, index: int) -> Any:
        if self._kept[index] is None:
            row = self._rows[index]
            self._kept[index] = _keep(row)
        else:
            row = _restore(self._kept[index])
        return row if self._decode is None else self._decode(index, row)


class _Bytes:
    """A value as bytes, which cannot change, and what makes the value of them again."""

    __slots__ = ("data", "restore")

    def __init__(self, data: bytes, restore: Callable[[bytes], Any]) -> None:
        self.data = data
        self.restore = restore


def _keep(row: Any) -> Any:
    if type(row) is dict:
        return {key: _keep_value(value) for key, value in row.items()}
    return _keep_value(row)


def _keep_value(value: Any) -> Any:
    if type(value) is bytearray:
        return _Bytes(bytes(value), bytearray)
    if type(value) not in (dict, list):
        return value
    try:
        return _Bytes(marshal.dumps(value), marshal.loads)
    except ValueError:  # not JSON, or nested too deeply
        return value


def _restore(kept: Any) -> Any:
    if type(kept) is dict:
        return {key: _restore_value(value) for key, value in kept.items()}
    return _restore_value(kept)


def _restore_value(value: Any) -> Any:
    return value.restore(value.data) if type(value) is _Bytes else value
