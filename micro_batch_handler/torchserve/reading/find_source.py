"""A handler's source, from a file that is not imported or from a loaded class."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from contextlib import suppress
from functools import lru_cache

from micro_batch_handler.torchserve.reading.source import Class, Module, Source

__all__ = ["source_in_file", "source_of_class"]


def source_of_class(kind: type) -> Source:
    """The source of a loaded class and of all its bases that have one."""
    bases = [base for base in kind.__mro__ if base is not object]
    classes = [
        _loaded(base)
        for base in bases
        if not f"{base.__module__}.".startswith("micro_batch_handler.")
    ]
    return Source(classes, {base.__name__ for base in bases})


def source_in_file(tree: ast.Module, class_name: str) -> Source:
    """The source of a class in a file that is not imported, and of its bases in the same file."""
    module = Module.of(tree, "")
    names = _linear(module, class_name, ())
    bases = {ast.unparse(base) for name in names for base in module.classes[name].bases}
    return Source([Class.of(module.classes[name], module) for name in names], bases)


def _linear(module: Module, name: str, behind: tuple[str, ...]) -> list[str]:
    """The names of a class's MRO, as far as they are in its file."""
    if name in behind or name not in module.classes:
        return []
    bases = [ast.unparse(base) for base in module.classes[name].bases]
    found = [it for base in bases for it in _linear(module, base, (*behind, name))]
    return [name, *(it for at, it in enumerate(found) if it not in found[at + 1 :])]


def _loaded(kind: type) -> Class:
    """A class as its file has it; an empty one if it has no source."""
    read = Class(kind.__name__)
    with suppress(Exception):
        name = kind.__module__
        module = _module(inspect.getsource(sys.modules[name]), name)
        if kind.__qualname__ not in module.loaded:
            module.loaded[kind.__qualname__] = read  # stays if reading it fails
            module.loaded[kind.__qualname__] = _class(kind, module) or read
        read = module.loaded[kind.__qualname__]
    return read


# Cached: many handlers have the same bases, and `tune` loads a handler for each setting.
@lru_cache(maxsize=32)
def _module(text: str, name: str) -> Module:
    return Module.of(ast.parse(text), name)


def _class(kind: type, module: Module) -> Class | None:
    lines, first = inspect.getsourcelines(kind)
    (node,) = ast.parse(textwrap.dedent("".join(lines))).body
    if not isinstance(node, ast.ClassDef):
        return None
    ast.increment_lineno(node, first - 1)
    return Class.of(node, module)
