"""Reads a stage and all that it calls, one function after the other."""

from __future__ import annotations

import ast

from micro_batch_handler.torchserve.reading.accesses import (
    CONTEXT,
    HANDLE,
    SELF,
    Accesses,
    How,
    Task,
)
from micro_batch_handler.torchserve.reading.calls import CallReader
from micro_batch_handler.torchserve.reading.scope import Scope, is_common, leaves
from micro_batch_handler.torchserve.reading.source import Def, Source

__all__ = ["accesses_of"]


def accesses_of(source: Source, stage: str) -> Accesses:
    """All that a stage stores and loads; nothing if the source has no such stage."""
    accesses, entry = Accesses(stage), source.find(stage)
    if entry is not None:
        arguments = [arg.arg for arg in entry.node.args.args]
        given = {arguments[2]: CONTEXT} if stage == HANDLE and arguments[2:] else {}
        accesses.begin(Task(entry, given, frozenset()))
    while accesses.tasks:
        task = accesses.tasks.pop(0)
        accesses.read.append(task)
        try:
            scope = Scope(source, task.function, task.given)
            _Reader(accesses, scope, task.guards).read()
        except Exception:  # it is nested too deeply, or has syntax newer than this file
            accesses.escapes = True
    return accesses


class _Reader(CallReader, ast.NodeVisitor):
    """Reads one function of a stage: here its statements and names, in `CallReader` its calls."""

    _common_names: frozenset[str] = frozenset()
    """Names and attributes that stand for common values; see `is_common`."""

    _how: How = "bound"
    """How the assignment at hand writes to its target."""

    _is_common = False
    """Whether it assigns a value that is common to all rows."""

    def read(self) -> None:
        self._block(self._scope.function.node.body)

    # Statements.

    def _block(self, statements: list[ast.stmt]) -> None:
        before = self._guards
        for statement in statements:
            self.visit(statement)
            if isinstance(statement, ast.If) and leaves(statement.body):
                self._guard(self._scope.missing(statement.test, when=False), statement)
        self._guards = before

    def _guard(self, key: str, node: ast.AST) -> None:
        if key:
            self._guards |= {(key, id(node))}

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._block(value)
            else:
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.AST):
                        self.visit(part)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        for when, branch in ((True, node.body), (False, node.orelse)):
            before = self._guards
            self._guard(self._scope.missing(node.test, when=when), node)
            self._block(branch)
            self._guards = before

    def _inner(self, node: Def | ast.Lambda) -> None:
        """A function in the function: read as if it were called here."""
        outer, self._scope = self._scope, self._scope.within(node)
        self.generic_visit(node)
        self._scope = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _inner  # noqa: N815 - ast's names

    def visit_For(self, node: ast.For) -> None:
        place = self._scope.holding(node.iter)
        if isinstance(node.target, ast.Name) and place is not None:
            self._scope.alias(node.target.id, place)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        self._statement = node.value
        self.visit(node.value)

    def visit_Assign(self, node: ast.Assign | ast.AnnAssign | ast.NamedExpr) -> None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if node.value is not None:
                self._assign(target, node.value, node)

    visit_AnnAssign = visit_NamedExpr = visit_Assign  # noqa: N815 - ast's names

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        place = self._scope.holding(node.target)
        if place is not None:
            self._accesses.load(place, node, gives=False)
        self._give(node.target, "changed", common=is_common(node.value, self._common_names))

    def _assign(self, target: ast.expr, value: ast.expr, node: ast.AST) -> None:
        pair = (ast.Tuple, ast.List)
        parts = len(value.elts) if isinstance(value, pair) else 0
        if isinstance(target, pair) and isinstance(value, pair) and len(target.elts) == parts:
            for to, part in zip(target.elts, value.elts, strict=True):
                self._assign(to, part, node)
            return
        place, scope, before = self._scope.place(value), self._scope, self._guards
        if isinstance(target, ast.Name) and place is not None and scope.alias(target.id, place):
            return
        self.visit(value)
        self._guard(scope.kept(value), node)
        own = {ast.unparse(target)} if scope.direct(target) else set()
        common = is_common(value, self._common_names | own)
        if isinstance(target, ast.Name) and common and target.id in scope.once:
            self._common_names |= {target.id}
        is_context = place == CONTEXT and bool(scope.direct(target))
        adds = isinstance(value, ast.BinOp) and ast.unparse(value.left) in own  # as += does
        self._give(target, "changed" if adds else "bound", common=common, is_context=is_context)
        self._guards = before

    def _give(self, target: ast.expr, how: How, *, common: bool, is_context: bool = False) -> None:
        self._how = how
        self._is_common = is_context or (common and self._accesses.stage == HANDLE)
        self.visit(target)
        self._how, self._is_common = "bound", False

    # Names, attributes and items.

    def visit_Name(self, node: ast.Name) -> None:
        place, helper = self._scope.place(node), self._scope.helper(node.id)
        if isinstance(node.ctx, (ast.Store, ast.Del)):
            if node.id in self._scope.globals:
                self._store(node, self._how, is_common=self._is_common)
        elif place == SELF:
            self._accesses.escapes = True
        elif place is not None and place.holds:
            self._accesses.load(place, node)
        elif helper is not None:
            self._accesses.follow(Task(helper, {}, self._guards), node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        scope, is_load = self._scope, isinstance(node.ctx, ast.Load)
        base, place = scope.place(node.value), scope.holding(node)
        how: How = "changed" if isinstance(node.ctx, ast.Del) else self._how
        if base == SELF or scope.is_class(node.value):
            self._accesses.escapes |= base == SELF and node.attr == "__dict__"
            method = scope.source.find(node.attr, setter=not is_load)
            if method is not None:
                self._accesses.follow(Task(method, {}, self._guards), node.attr)
            if place is not None and is_load:
                self._accesses.load(place, node)
            elif method is None:
                self._store(node, how, is_common=self._is_common)
            return
        if place is not None and is_load and place != base:
            self._accesses.load(place, node)
        if is_load or place is None:
            self.visit(node.value)
        else:
            self._store(node, how, is_common=self._is_common)
            self._beneath(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load) or self._scope.holding(node.value) is None:
            self.generic_visit(node)
            return
        how = _at(node.slice) if isinstance(node.ctx, ast.Store) else "changed"
        self._store(node, how, is_common=self._is_common and how == "changed")
        self._beneath(node)


def _at(index: ast.expr) -> How:
    """How a store at an index writes; an index that is text is a key, and nothing is in place."""
    if any(isinstance(part, ast.Slice) for part in ast.walk(index)):
        return "slice"
    is_text = isinstance(index, ast.Constant) and isinstance(index.value, (str, bytes))
    return "changed" if is_text or isinstance(index, ast.JoinedStr) else "index"
