"""A handler's classes and their modules in the form that is read: functions, names, methods."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, Union

__all__ = [
    "DEFS",
    "Class",
    "Def",
    "Function",
    "Module",
    "Source",
    "arguments_of",
    "source_in_file",
    "source_of_class",
]

Def = Union[ast.FunctionDef, ast.AsyncFunctionDef]
DEFS = (ast.FunctionDef, ast.AsyncFunctionDef)

METHODS_OF_DICTS = frozenset({"get", "items", "keys", "setdefault"})


@dataclass(frozen=True, eq=False)
class Module:
    """The functions, classes and other names of a file."""

    name: str
    functions: dict[str, Def] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    values: dict[str, ast.expr | None] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    """For each name that an import binds, the module that it comes from."""
    loaded: dict[str, Class] = field(default_factory=dict)
    """Its classes that were read already, by qualified name."""

    @classmethod
    def of(cls, tree: ast.Module | ast.ClassDef, name: str) -> Module:
        """The names of a file, or of the body of a class."""
        module = cls(name)
        for statement in _statements(tree):
            if isinstance(statement, DEFS):
                module.functions[statement.name] = statement
            elif isinstance(statement, ast.ClassDef):
                module.classes[statement.name] = statement
            else:
                for target in _targets(statement):
                    names = [it.id for it in ast.walk(target) if isinstance(it, ast.Name)]
                    module.values.update(dict.fromkeys(names, _value(statement)))
        for part in ast.walk(tree):
            if isinstance(part, ast.Import):
                for it in part.names:
                    module.imports[it.asname or it.name.partition(".")[0]] = it.name
            elif isinstance(part, ast.ImportFrom):
                origin = (name if part.level else part.module) or "."
                module.imports.update((it.asname or it.name, origin) for it in part.names)
            elif isinstance(part, ast.Global):
                module.values.update({it: module.values.get(it) for it in part.names})
        return module

    def dicts(self) -> set[str]:
        """The names that stand for dicts."""
        return {name for name, value in self.values.items() if _is_dict(value)}


@dataclass(frozen=True)
class Function:
    """A function that can be read.

    Attributes:
        node: its source.
        module: of its file.
        at: the place of its class in the MRO; negative if it is no method.
        takes: what its first argument stands for; empty if that may be anything.
        is_property: whether reading the attribute calls it.
    """

    node: Def
    module: Module
    at: int = -1
    takes: Literal["self", "class", ""] = ""
    is_property: bool = False


@dataclass(frozen=True)
class Class:
    """A class: methods, setters of properties, names of its body, attributes that are dicts."""

    name: str
    methods: dict[str, tuple[Def, Module]] = field(default_factory=dict)
    setters: dict[str, tuple[Def, Module]] = field(default_factory=dict)
    values: set[str] = field(default_factory=set)
    dicts: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, node: ast.ClassDef, module: Module) -> Class:
        """The class that this source defines."""
        kind, body = cls(node.name), Module.of(node, "")
        for statement in _statements(node):
            if isinstance(statement, DEFS):
                marks = [ast.unparse(mark) for mark in statement.decorator_list]
                is_setter = any(mark.endswith((".setter", ".deleter")) for mark in marks)
                (kind.setters if is_setter else kind.methods)[statement.name] = statement, module
        for name, value in body.values.items():  # postprocess = _to_json
            called = value.id if isinstance(value, ast.Name) else ""
            function = body.functions.get(called) or module.functions.get(called)
            if function is not None:
                kind.methods[name] = function, module
        kind.values.update(body.values)
        kind.dicts.update(body.dicts())
        for part in ast.walk(node):
            found = _targets(part) if _is_dict(_value(part)) else []
            if isinstance(part, ast.Attribute) and part.attr in METHODS_OF_DICTS:
                found = [part.value]
            kind.dicts.update(it.attr for it in found if isinstance(it, ast.Attribute))
        return kind


@dataclass(frozen=True)
class Source:
    """All that can be read of a handler.

    Attributes:
        classes: in the order of the MRO.
        bases: names of its classes, of those too that are known by name only.
    """

    classes: list[Class]
    bases: Collection[str]

    def find(self, name: str, start: int = 0, *, setter: bool = False) -> Function | None:
        """The method `self.name`; from `start` in the MRO on, as `super().name` finds it."""
        for at, kind in enumerate(self.classes[start:], start):
            found = (kind.setters if setter else kind.methods).get(name)
            if found is not None:
                marks = [ast.unparse(mark).split("(")[0] for mark in found[0].decorator_list]
                takes: Literal["self", "class", ""] = (
                    "" if "staticmethod" in marks else "class" if "classmethod" in marks else "self"
                )
                is_property = any(mark.endswith("property") for mark in marks)
                return Function(*found, at, takes, is_property)
        return None

    def at(self, name: str) -> int | None:
        """The place of a class in the MRO; behind all classes if it is known by name only."""
        for at, kind in enumerate(self.classes):
            if kind.name == name:
                return at
        return len(self.classes) if name in self.bases else None


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
        known = module.loaded.get(kind.__qualname__)
        if known is not None:
            return known
        module.loaded[kind.__qualname__] = read  # stays if reading it fails
        lines, first = inspect.getsourcelines(kind)
        (node,) = ast.parse(textwrap.dedent("".join(lines))).body
        if isinstance(node, ast.ClassDef):
            ast.increment_lineno(node, first - 1)
            module.loaded[kind.__qualname__] = read = Class.of(node, module)
    return read


# Cached: many handlers have the same bases, and `tune` loads a handler for each setting.
@lru_cache(maxsize=32)
def _module(text: str, name: str) -> Module:
    return Module.of(ast.parse(text), name)


def arguments_of(node: Def | ast.Lambda) -> list[str]:
    """The names of a function's arguments."""
    return [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run when a module or class is made, also under if, try and with."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (ast.ClassDef, *DEFS, ast.expr)):
            yield from _statements(child)


def _targets(node: ast.AST) -> list[ast.expr]:
    """The targets of an assignment; none for any other statement."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _value(node: ast.AST) -> ast.expr | None:
    return node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None


def _is_dict(value: ast.expr | None) -> bool:
    """Whether a value is a dict, or a call of something with a dict's or a cache's name."""
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func).rpartition(".")[2].lower()
        return called.startswith("lru") or called.endswith(("dict", "cache", "counter", "map"))
    return isinstance(value, (ast.Dict, ast.DictComp))
