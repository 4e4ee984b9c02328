"""A handler file as TorchServe's model loader will see it: parsed once, and never run.

The loader takes a function of the module: `handle`, or the one named after the colon of
`--handler`. Without one it wants exactly one class that is made in the file (imported classes do
not count), and it calls `initialize` and `handle` of an instance. `ModuleNames` has what the module
binds when it is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from micro_batch_handler.errors import ArchiveError

__all__ = ["HandlerFile", "ModuleNames", "parse", "split_handler"]

Function = Union[ast.FunctionDef, ast.AsyncFunctionDef]

_ENTRY_POINT = "handle"
_METHODS = ("initialize", "handle")

_MAKES_A_CLASS = {"namedtuple", "NamedTuple", "TypedDict", "Enum", "IntEnum", "StrEnum", "type"}
"""Calls whose result is a class that says it comes from the file of the call."""

_FALSE_ON_IMPORT = {"TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'"}


@dataclass(frozen=True)
class HandlerFile:
    """A handler file that the loader can load."""

    path: Path
    tree: ast.Module

    name: str
    """The name of the class or function that the loader takes."""

    node: ast.ClassDef | Function | None
    """Where that is made; None if it is imported, or made by a call."""

    @classmethod
    def of(cls, handler: str, source: bytes | None = None) -> HandlerFile:
        """Read what `--handler` names.

        Args:
            handler: `handler.py`, `handler` or `handler.py:function`.
            source: the file's content, if it is not on disk.

        Raises:
            ArchiveError: there is no such file, or the loader would refuse it.
        """
        path, function = split_handler(handler)
        if source is None and not path.is_file():
            raise ArchiveError(f"--handler {path}: there is no such file")
        if "." in path.stem:
            raise ArchiveError(
                f"{path} cannot be imported by its name; rename it so that it has one dot, in .py"
            )
        tree = parse(path, path.read_bytes() if source is None else source)
        _refuse_relative_imports(path, tree)
        names = ModuleNames.of(tree)
        # `from … import *` may bring a `handle` that cannot be seen here.
        has_handle = _ENTRY_POINT in names.bound or (names.takes_all and not names.classes)
        if function is None and not has_handle:
            return cls(path, tree, *_only_class(path, names))
        if function is not None:
            _refuse_other_than_function(path, function, names)
        name = function or _ENTRY_POINT
        return cls(path, tree, name, names.functions.get(name))

    @property
    def class_node(self) -> ast.ClassDef | None:
        """The class that the loader takes; None if it takes a function."""
        return self.node if isinstance(self.node, ast.ClassDef) else None

    @property
    def methods(self) -> dict[str, Function]:
        """The functions in the body of the class, by name; none for a function."""
        return ModuleNames.of(self.class_node).functions if self.class_node else {}

    @property
    def bases(self) -> set[str]:
        """The last names of the classes that the class derives from; none for a function."""
        bases = self.class_node.bases if self.class_node else []
        return {ast.unparse(base).rpartition(".")[2] for base in bases}


def split_handler(handler: str) -> tuple[Path, str | None]:
    """The file that `--handler` names (the archiver adds .py), and perhaps a function in it."""
    path, _, function = handler.partition(":")
    return Path(path if path.endswith(".py") else f"{path}.py"), function or None


def _refuse_relative_imports(path: Path, tree: ast.Module) -> None:
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.level > 0:
            raise ArchiveError(
                f"{path} line {statement.lineno} imports relatively, but TorchServe loads the "
                "file outside any package; import by the module's own name"
            )


def _refuse_other_than_function(path: Path, function: str, names: ModuleNames) -> None:
    if function in names.classes:
        raise ArchiveError(
            f"{function} in {path} is a class, which TorchServe would call as a function; "
            f"give --handler {path} without ':{function}'"
        )
    if function not in names.bound and not names.takes_all:
        raise ArchiveError(f"{path} has no function {function}, which --handler names")


def _only_class(path: Path, names: ModuleNames) -> tuple[str, ast.ClassDef | None]:
    """The name of the one class that the file makes, and the class; None if a call makes it."""
    count = len(names.classes)
    if count == 0:
        raise ArchiveError(
            f"{path} makes no class and has no function {_ENTRY_POINT}; TorchServe wants one "
            "class (an imported one does not count, so subclass it here)"
        )
    if count > 1:
        raise ArchiveError(
            f"{path} makes {count} classes ({', '.join(names.classes)}) but TorchServe wants "
            "exactly one; move the others to a module of their own, given by --extra-files"
        )
    ((name, node),) = names.classes.items()
    if node is not None and not (node.bases or node.keywords or node.decorator_list):
        bound = ModuleNames.of(node).bound
        missing = [method for method in _METHODS if method not in bound]
        if missing:
            raise ArchiveError(
                f"class {name} in {path} has no method {' and no '.join(missing)}; "
                "subclass micro_batch_handler.MicroBatchHandler, which has them"
            )
    return name, node


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
