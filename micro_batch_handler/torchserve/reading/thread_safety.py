"""Whether a stage's method may run in several threads at once, as its source and objects show.

It may if it, and what it calls in its file, stores nothing that outlives the call and calls nothing
but functions known to be safe. Objects of the call's own rows belong to one thread. What lies on
`self` or in the module is shared: reading it is safe, calling it is where its class is known.
"""

from __future__ import annotations

import ast
import builtins
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.torchserve.reading.accesses import CONTEXT, CONTEXTS, Place, Task
from micro_batch_handler.torchserve.reading.known_safe import is_safe_function, is_safe_object
from micro_batch_handler.torchserve.reading.reader import accesses_of
from micro_batch_handler.torchserve.reading.scope import Scope
from micro_batch_handler.torchserve.reading.source import Source, source_in_file, source_of_class

__all__ = ["obstacles_in_file", "obstacles_of"]

NOT_BUILTIN = frozenset({"__import__", "eval", "exec", "globals", "input", "open", "vars"})
"""Functions of Python that may do anything, or ask for something outside the process."""

PASS_ON = frozenset({"enumerate", "iter", "list", "map", "reversed", "sorted", "tuple", "zip"})
"""Functions of Python whose results have what they get."""

Known = Callable[[Place], bool]
"""Whether what lies in a place may be called by several threads."""


def obstacles_of(handler: Any) -> dict[Stage, str]:
    """For each stage what stands in the way of several threads; empty where nothing does.

    Never raises: what cannot be read stands in the way.

    Args:
        handler: initialized, so that its objects can be looked at.
    """

    def known(place: Place) -> bool:
        try:
            return is_safe_object(_object(handler, place))
        except Exception:  # it is no longer there, or refuses to be looked at
            return False

    found = _obstacles(source_of_class(type(handler)), known)
    own = {stage: "it is an attribute of the object" for stage in STAGES if stage in vars(handler)}
    return {**found, **own}


def obstacles_in_file(tree: ast.Module, class_name: str) -> dict[Stage, str]:
    """The same for a class in a file that is not imported; its objects are taken to be safe."""
    return _obstacles(source_in_file(tree, class_name), lambda _: True)


def _obstacles(source: Source, known: Known) -> dict[Stage, str]:
    return {stage: _obstacle(source, stage, known) for stage in STAGES}


def _obstacle(source: Source, stage: Stage, known: Known) -> str:
    if source.find(stage) is None:
        return "its source cannot be read"
    accesses = accesses_of(source, stage)
    for store in accesses.stores:
        if not _is_context(store.place):
            return f"it stores {store.spot} (line {store.line})"
    if accesses.escapes:
        return "it hands self to something that cannot be read"
    for task in accesses.read:
        reader = _CallsReader(source, task, known)
        reader.visit(task.function.node)
        if reader.found:
            return reader.found
    return ""


class _CallsReader(ast.NodeVisitor):
    """Finds the first call in a function that several threads must not make."""

    def __init__(self, source: Source, task: Task, known: Known) -> None:
        self.found = ""
        self._scope = Scope(source, task.function, task.given)
        self._imports = task.function.module.imports
        self._known = known
        # Also names that stand for something else at other times.
        self._shared = {
            name: place
            for names, value in _bindings(task.function.node)
            for place in [self._shared_by(value)]
            if place is not None
            for name in names
        }

    def visit(self, node: ast.AST) -> None:
        """Look at this and what is in it."""
        if not self.found:
            super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Look at the body, and at what is called around it."""
        for mark in node.decorator_list:
            around = mark.func if isinstance(mark, ast.Call) else mark
            if self._module(around) and not self._is_safe(around):
                self._stop(f"{ast.unparse(around)}, which is around it, cannot be read", mark)
        for statement in node.body:
            self.visit(statement)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - ast's name

    def visit_Assign(self, node: ast.Assign) -> None:
        """Refuse a new value in another module."""
        for target in node.targets:
            if isinstance(target, ast.Attribute) and self._module(target):
                self._stop(f"it sets {ast.unparse(target)}", node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Look at what is called, then at its arguments."""
        name, place = ast.unparse(node.func), self._place(node.func)
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        given = [it for it in map(self._place, arguments) if it is not None]
        if place is not None:
            given.append(place)
        elif not self._is_safe(node.func):
            self._stop(f"it calls {name}, which cannot be read", node)
        elif self._is_read(node.func):
            given = []  # what it gets is looked at there
        elif name == "next" and given:
            self._stop(f"it calls {ast.unparse(node)}", node)
        for each in given:
            if not _is_context(each) and not self._known(each):
                self._stop(f"it uses {each.shown}, which may not be safe in several threads", node)
        self.generic_visit(node)

    def _place(self, node: ast.expr) -> Place | None:
        """What outlives the call and is, or has as a part, what an expression stands for."""
        return self._scope.holding(node) or self._shared.get(_first_name(node))

    def _shared_by(self, value: ast.expr) -> Place | None:
        """What outlives the call and may be the value of an expression, or an element of it."""
        parts: list[ast.expr] = []
        if isinstance(value, ast.IfExp):
            parts = [value.body, value.orelse]
        elif isinstance(value, ast.BoolOp):
            parts = value.values
        elif isinstance(value, (ast.Tuple, ast.List)):
            parts = value.elts
        elif isinstance(value, ast.Call) and ast.unparse(value.func) in PASS_ON:
            parts = value.args
        found = (self._shared_by(part) for part in parts)
        return next(filter(None, found), None) if parts else self._scope.holding(value)

    def _is_read(self, function: ast.expr) -> bool:
        """Whether a function is the handler's, or its file's."""
        if isinstance(function, ast.Name):
            return self._scope.helper(function.id) is not None
        return isinstance(function, ast.Attribute) and self._scope.place(function.value) is not None

    def _is_safe(self, function: ast.expr) -> bool:
        """Whether a function that is neither on `self` nor a value of the module may be called."""
        module = self._module(function)
        if module:
            return is_safe_function(module, ast.unparse(function).rpartition(".")[2])
        if not isinstance(function, ast.Name):
            return True  # a method: of the handler's, which is read, or of an object of this call
        name, scope = function.id, self._scope
        if name in scope.locals or scope.place(function) is not None or scope.helper(name):
            return True
        return hasattr(builtins, name) and name not in NOT_BUILTIN

    def _module(self, node: ast.expr) -> str:
        """The module that the first name of an expression comes from; empty if from none."""
        return self._imports.get(_first_name(node), "")

    def _stop(self, why: str, node: ast.AST) -> None:
        self.found = self.found or f"{why} (line {getattr(node, 'lineno', 0)})"


def _first_name(node: ast.expr) -> str:
    """`a` of `a.b[0].c`; empty if the expression does not begin with a name."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _bindings(function: ast.AST) -> Iterator[tuple[list[str], ast.expr]]:
    """The names that a function gives values to, each with where the value comes from."""
    targets: list[ast.expr]
    value: ast.expr | None
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            targets, value = [node.target], node.value
        elif isinstance(node, (ast.For, ast.comprehension)):
            targets, value = [node.target], node.iter
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            targets, value = [node.optional_vars], node.context_expr
        else:
            continue
        inner = (it for target in targets for it in ast.walk(target))
        names = [
            it.id for it in inner if isinstance(it, ast.Name) and isinstance(it.ctx, ast.Store)
        ]
        if value is not None:
            yield names, value


def _is_context(place: Place) -> bool:
    """Whether it is TorchServe's context, or of it: a call sees its own."""
    return place.key in CONTEXTS or place.key.startswith(f"{CONTEXT.key}.")


def _object(handler: Any, place: Place) -> Any:
    """What lies in a place of a loaded handler.

    Raises:
        Exception: it cannot be found.
    """
    module, _, name = place.key.rpartition(":")
    if place.key.startswith("."):
        return getattr(handler, place.key[1:])
    return functools.reduce(getattr, name.split("."), sys.modules[module])
