"""A handler file as TorchServe's model loader will see it: parsed once, and never run.

The loader takes a function of the module: `handle`, or the one named after the colon of
`--handler`. Without one it wants exactly one class that is made in the file (imported classes do
not count), and it calls `initialize` and `handle` of an instance.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.module_names import Function, ModuleNames, parse

__all__ = ["HandlerFile", "split_handler"]

_ENTRY_POINT = "handle"
_METHODS = ("initialize", "handle")


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
