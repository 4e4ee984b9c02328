"""A handler file as TorchServe's model loader will see it, read without running it.

The loader takes a module function, `handle` or the one named after the colon; without one it
wants exactly one class made in the file (imported classes do not count), and it calls `initialize`
and `handle` of an instance.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from micro_batch_handler.errors import ArchiveError

__all__ = ["HandlerName", "check_handler_file", "class_names", "entry_point"]

_ENTRY_POINT = "handle"
_METHODS = ("initialize", "handle")

_MAKES_A_CLASS = {"namedtuple", "NamedTuple", "TypedDict", "Enum", "IntEnum", "StrEnum", "type"}
"""Calls whose result is a class that says it comes from the file of the call."""


@dataclass(frozen=True)
class HandlerName:
    """What `--handler` names: a file, and after a colon perhaps a function in it."""

    file: Path
    function: str | None

    @classmethod
    def of(cls, handler: str) -> HandlerName:
        """Read `handler.py`, `handler` (the archiver adds .py) or `handler.py:function`."""
        path, _, function = handler.partition(":")
        return cls(Path(path if path.endswith(".py") else f"{path}.py"), function or None)


@dataclass
class _Module:
    """What the statements of a module bind when it is imported."""

    bound: set[str] = field(default_factory=set)
    functions: dict[str, ast.AST] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef | None] = field(default_factory=dict)  # None: made by a call
    takes_all: bool = False  # from … import *


def check_handler_file(handler: HandlerName) -> None:
    """Refuse a handler file that the loader would refuse."""
    path = handler.file
    if "." in path.stem:
        raise ArchiveError(
            f"{path} cannot be imported by its name; rename it so that it has one dot, in .py"
        )
    tree = _parse(path)
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.level > 0:
            raise ArchiveError(
                f"{path} line {statement.lineno} imports relatively, but TorchServe loads the "
                "file outside any package; import by the module's own name"
            )
    module = _read(tree)
    if handler.function is not None:
        _check_function(path, handler.function, module)
    elif _ENTRY_POINT not in module.bound and not (module.takes_all and not module.classes):
        _check_class(path, module)


def entry_point(handler: HandlerName) -> tuple[str, ast.AST | None]:
    """The name of what the loader takes from a file that it can load, and where it is made.

    A function, or a class; None if it comes from elsewhere, or from a call.
    """
    module = _read(_parse(handler.file))
    function = handler.function or _ENTRY_POINT
    if handler.function is None and function not in module.bound and module.classes:
        ((name, node),) = module.classes.items()
        return name, node
    return function, module.functions.get(function)


def class_names(path: Path) -> list[str]:
    """The classes that the file makes, as the loader counts them."""
    return list(_read(_parse(path)).classes)


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise ArchiveError(f"{path} line {error.lineno} is not Python: {error.msg}") from error
    except ValueError as error:  # a null byte, to Python before 3.12
        raise ArchiveError(f"{path} is not Python: {error}") from error


def _check_function(path: Path, function: str, module: _Module) -> None:
    if function in module.classes:
        raise ArchiveError(
            f"{function} in {path} is a class, which TorchServe would call as a function; "
            f"give --handler {path} without ':{function}'"
        )
    if function not in module.bound and not module.takes_all:
        raise ArchiveError(f"{path} has no function {function}, which --handler names")


def _check_class(path: Path, module: _Module) -> None:
    count = len(module.classes)
    if count == 0:
        raise ArchiveError(
            f"{path} makes no class and has no function {_ENTRY_POINT}; TorchServe wants one "
            "class (an imported one does not count, so subclass it here)"
        )
    if count > 1:
        raise ArchiveError(
            f"{path} makes {count} classes ({', '.join(module.classes)}) but TorchServe wants "
            "exactly one; move the others to a module of their own, given by --extra-files"
        )
    ((name, node),) = module.classes.items()
    if node is None or node.bases or node.keywords or node.decorator_list:
        return  # what else it has cannot be read here
    methods = _read(node).bound
    missing = [method for method in _METHODS if method not in methods]
    if missing:
        raise ArchiveError(
            f"class {name} in {path} has no method {' and no '.join(missing)}; "
            "subclass micro_batch_handler.MicroBatchHandler, which has them"
        )


def _read(node: ast.Module | ast.ClassDef) -> _Module:
    module = _Module()
    for statement in _statements(node):
        if isinstance(statement, ast.ClassDef):
            module.classes[statement.name] = statement
            module.bound.add(statement.name)
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            module.bound.add(statement.name)
            module.functions[statement.name] = statement
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
            module.takes_all |= "*" in names
            module.bound.update(names)
        elif isinstance(statement, ast.Delete):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    module.bound.discard(target.id)
                    module.classes.pop(target.id, None)
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            _assign(module, statement, statement.value)
    return module


def _assign(module: _Module, statement: ast.Assign | ast.AnnAssign, value: ast.expr) -> None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        names = [part.id for part in ast.walk(target) if isinstance(part, ast.Name)]
        module.bound.update(names)
        if not isinstance(target, ast.Name):
            continue
        # A second name for a class is a second class to the loader.
        if isinstance(value, ast.Name) and value.id in module.classes:
            module.classes[target.id] = module.classes[value.id]
        elif _makes_a_class(value):
            module.classes[target.id] = None


def _makes_a_class(value: ast.expr) -> bool:
    if not isinstance(value, ast.Call) or len(value.args) + len(value.keywords) < 2:  # noqa: PLR2004 - type(x) makes none
        return False
    called = value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _MAKES_A_CLASS


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Every statement that runs when the module (or class body) does, also under if, try, with."""
    children: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and _is_false_on_import(node.test):
        children = list(node.orelse)
    for child in children:
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _statements(child)


def _is_false_on_import(test: ast.expr) -> bool:
    return ast.unparse(test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
        "__name__ == '__main__'",
    )
