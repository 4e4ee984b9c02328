"""Exceptions on their way from the model host to a member, with type, text and traceback.

What cannot be pickled arrives in parts: as its class, with its texts and numbers; or as a class of
the same name, derived from its nearest base that a member can import. TorchServe and this package
tell errors apart by their types.
"""

from __future__ import annotations

import pickle
import traceback
from contextlib import suppress
from typing import Any, NamedTuple

from micro_batch_handler.hosting.messages import HostCall

__all__ = ["HostTraceback", "RemoteFault", "packed", "unpacked"]

PLAIN = (str, bytes, bool, int, float, type(None))


class HostTraceback(Exception):  # noqa: N818  (it is the cause of an error, none itself)
    """The traceback in the host, as the cause of the error that a member gets."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the process with the model:\n{self.text}"


class _Parts(NamedTuple):
    """The texts and numbers of an error, and what it is made from."""

    name: str
    base: type[BaseException]
    args: tuple[Any, ...]
    values: dict[str, Any]

    def error(self) -> BaseException:
        """The error, made without its constructor, which may want other arguments."""
        kind = self.base
        if kind.__name__ != self.name:
            kind = type(self.name, (kind,), {"__module__": __name__})
        try:
            made = kind.__new__(kind, *self.args)
        except TypeError:  # Python refuses MemoryError's own where that is not the first base
            made = Exception.__new__(kind, *self.args)
        made.args = self.args
        vars(made).update(self.values)
        return made


def packed(error: BaseException) -> bytes:
    """The error as bytes, for `unpacked`; also one that raises when it is looked at."""
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException:
        trace = f"{type(error).__name__}, whose traceback cannot be shown"
    # The member may fail to load what is whole: it has no device, for example.
    return pickle.dumps((_whole(error), _in_parts(error), trace), protocol=5)


def unpacked(data: bytes) -> BaseException:
    """The error that was packed; its cause is the traceback in the host."""
    whole, parts, trace = pickle.loads(data)  # noqa: S301  (from the host)
    found: BaseException = RuntimeError("an error of the model host that cannot be read here")
    for pickled in (parts, whole):
        with suppress(BaseException):
            loaded = pickle.loads(pickled)  # noqa: S301
            found = loaded.error() if isinstance(loaded, _Parts) else loaded
    found.__cause__ = HostTraceback(trace)
    return found


def _whole(error: BaseException) -> bytes:
    """The error as pickle has it; empty if it cannot be made again from that."""
    with suppress(BaseException):
        pickled = pickle.dumps(error, protocol=5)
        # Many exceptions can be pickled and not loaded, since they want more arguments.
        if type(pickle.loads(pickled)) is type(error):  # noqa: S301  (our own bytes)
            return pickled
    return b""


def _in_parts(error: BaseException) -> bytes:
    """The error in parts; empty if none of its bases can be made from them."""
    args: tuple[Any, ...] = (_text(error),)
    values: dict[str, Any] = {}
    with suppress(BaseException):
        args = error.args if all(type(arg) in PLAIN for arg in error.args) else args
        values = {key: value for key, value in vars(error).items() if type(value) in PLAIN}
    for base in type(error).__mro__:
        with suppress(BaseException):
            pickled = pickle.dumps(_Parts(type(error).__name__, base, args, values), protocol=5)
            pickle.loads(pickled).error()  # noqa: S301  (our own bytes)
            return pickled
    return b""


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "the error has no readable message"


class RemoteFault(Exception):  # noqa: N818  (it carries an error)
    """A host call failed.

    Args:
        error: that the stage raised.
        stage: that raised it.
        call: that failed; None if there was none.
    """

    def __init__(self, error: BaseException, stage: Any, call: HostCall | None) -> None:
        super().__init__(error)
        self.error = error
        self.stage = stage
        self.call = call
