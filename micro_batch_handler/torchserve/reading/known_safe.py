"""Functions and objects that several threads may call at once.

A list, since nothing in Python tells: what is not known here is taken to be unsafe.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

__all__ = ["is_safe_function", "is_safe_object"]

KNOWN = frozenset(
    """
    PIL array base64 binascii bisect builtins collections contextlib copy csv cv2 dataclasses
    datetime decimal enum functools gzip hashlib heapq html io itertools json logging math
    micro_batch_handler numpy operator orjson re statistics string struct time torch torchvision ts
    typing unicodedata urllib uuid wave zlib
    """.split()  # noqa: SIM905  (a list of strings would take a page)
)
"""Modules whose functions may be called by several threads, each on objects of its own."""

FOR_THE_PROCESS = re.compile(r"(^|_)(seed|set|use)(_|$)|^set[A-Z]")
"""Functions of these modules that change the whole process: `torch.set_num_threads`."""

MOST_PARTS = 100
"""Of a container that are looked at; a table of labels has thousands, all alike."""


def is_safe_function(module: str, name: str) -> bool:
    """Whether several threads may call a function of a module, or make an object of its class.

    Args:
        module: the module's name, or the first part of it.
        name: of the function.
    """
    return module.partition(".")[0] in KNOWN and not FOR_THE_PROCESS.search(name)


def is_safe_object(found: Any) -> bool:
    """Whether several threads may call an object, or methods of it that change nothing by name."""
    owner = getattr(found, "__self__", None)  # of a bound method
    if owner is not None and not isinstance(owner, ModuleType):
        return is_safe_object(owner)
    if isinstance(found, functools.partial):
        return is_safe_object(found.func)
    if isinstance(found, (FunctionType, BuiltinFunctionType, type)):
        return is_safe_function(found.__module__ or "", found.__name__)
    kind = found.__name__ if isinstance(found, ModuleType) else type(found).__module__
    return is_safe_function(kind, "") and all(map(is_safe_object, _parts(found)))


def _parts(found: Any) -> Iterable[Any]:
    """The parts of a known object, which may be of any class."""
    if isinstance(found, (list, tuple, set, frozenset, Mapping)):
        parts = found.values() if isinstance(found, Mapping) else found
        return islice(parts, MOST_PARTS)
    # Of a network, and of a chain of transforms.
    return [*getattr(found, "_modules", {}).values(), *(getattr(found, "transforms", None) or ())]
