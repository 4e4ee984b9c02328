"""The names that a module binds when it is imported, read from its source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from micro_batch_handler.errors import ArchiveError

__all__ = ["Function", "ModuleNames", "parse"]

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]

_MAKES_A_CLASS = {"namedtuple", "NamedTuple", "TypedDict", "Enum", "IntEnum", "StrEnum", "type"}
"""Calls whose result is a class that says it comes from the file of the call."""

_FALSE_ON_IMPORT = {"TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'"}


@dataclass
class ModuleNames:
    """The names that the statements of a module, or of the body of a class, bind when they run."""

    bound: set[str] = field(default_factory=set)
    """All of them."""

    functions: dict[str, Function] = field(default_factory=dict)

    classes: dict[str, ast.ClassDef | None] = field(default_factory=dict)
    """As TorchServe's model loader counts them; None stands for a class that a call makes."""

    takes_all: bool = False
    """Whether `from … import *` may bind more."""

    @classmethod
    def of(cls, node: ast.Module | ast.ClassDef) -> ModuleNames:
        """Read the statements in order."""
        names = cls()
        for statement in _statements(node):
            names._run(statement)
        return names

    def _run(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.ClassDef):
            self.classes[statement.name] = statement
            self.bound.add(statement.name)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self.functions[statement.name] = statement
            self.bound.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            imported = [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
            self.takes_all |= "*" in imported
            self.bound.update(imported)
        elif isinstance(statement, ast.Delete):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    self.bound.discard(target.id)
                    self.classes.pop(target.id, None)
        elif isinstance(statement, ast.Assign):
            for target in statement.targets:
                self._assign(target, statement.value)
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            self._assign(statement.target, statement.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        self.bound.update(part.id for part in ast.walk(target) if isinstance(part, ast.Name))
        if not isinstance(target, ast.Name):
            return
        # A second name for a class is a second class to the loader.
        if isinstance(value, ast.Name) and value.id in self.classes:
            self.classes[target.id] = self.classes[value.id]
        elif _makes_a_class(value):
            self.classes[target.id] = None


def parse(path: Path, source: bytes) -> ast.Module:
    """Parse the source of a file.

    Raises:
        ArchiveError: it is not Python; the message names the line.
    """
    try:
        return ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise ArchiveError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
    except ValueError as error:  # a null byte, to Python before 3.12
        raise ArchiveError(f"{path} is not Python: {error}") from error


def _makes_a_class(value: ast.expr) -> bool:
    if not isinstance(value, ast.Call) or len(value.args) + len(value.keywords) < 2:  # noqa: PLR2004 - type(x) makes none
        return False
    called = value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _MAKES_A_CLASS


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement that runs when the module (or class body) does, also under if, try, with."""
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) in _FALSE_ON_IMPORT:
        children = list(node.orelse)
    for child in children:
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _statements(child)
