"""Exceptions on their way from the model host to a member, with type, text and traceback.

What cannot be pickled arrives as an exception of the same name, derived from the nearest built-in
type, since TorchServe and this package tell errors apart by their types.
"""

from __future__ import annotations

import builtins
import pickle
import traceback
from typing import NamedTuple

__all__ = ["HostTraceback", "packed", "unpacked"]


class HostTraceback(Exception):  # noqa: N818  (it is the cause of an error, none itself)
    """The traceback in the host, as the cause of the error that a member gets."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"in the process with the model:\n{self.text}"


class _Described(NamedTuple):
    name: str
    base: str
    text: str


def packed(error: BaseException) -> bytes:
    """The error as bytes, for `unpacked`."""
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickled = pickle.dumps(error, protocol=5)
        # Many exceptions can be pickled and not loaded, since they want more arguments.
        whole = type(pickle.loads(pickled)) is type(error)  # noqa: S301  (our own bytes)
    except Exception:
        whole = False
    if not whole:
        pickled = pickle.dumps(_Described(type(error).__name__, _base(error), _text(error)))
    return pickle.dumps((pickled, trace), protocol=5)


def unpacked(data: bytes) -> BaseException:
    """The error that was packed; its cause is the traceback in the host."""
    pickled, trace = pickle.loads(data)  # noqa: S301  (from the host)
    try:
        found = pickle.loads(pickled)  # noqa: S301
    except Exception as why:  # its module is not there, perhaps
        found = RuntimeError(f"an error of the model host that cannot be read here: {why}")
    if isinstance(found, _Described):
        kind = type(found.name, (getattr(builtins, found.base),), {"__module__": __name__})
        found = kind(found.text)
    error: BaseException = found
    error.__cause__ = HostTraceback(trace)
    return error


def _base(error: BaseException) -> str:
    """The nearest built-in type that is made from a text alone."""
    bases = (kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    # A host that ends, or a keyboard interrupt, is no affair of the member's.
    return next(
        (kind.__name__ for kind in bases if issubclass(kind, Exception) and _takes_text(kind)),
        "RuntimeError",
    )


def _takes_text(kind: type[Exception]) -> bool:
    try:
        kind("text")  # UnicodeDecodeError wants five arguments
    except Exception:
        return False
    return True


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "the error has no readable message"
