"""Reads calls: what they change, what they hand on, which functions they follow."""

from __future__ import annotations

import ast
from itertools import takewhile

from micro_batch_handler.torchserve.reading.accesses import (
    SELF,
    WRAPPED,
    Accesses,
    Guard,
    How,
    Place,
    Store,
    Task,
)
from micro_batch_handler.torchserve.reading.scope import Scope, as_attribute
from micro_batch_handler.torchserve.reading.source import Function, arguments_of

__all__ = ["CallReader"]

TAKERS = frozenset({"pop", "popleft", "popitem", "setdefault"})
"""Methods that change what they are called on and return some of it."""

MUTATORS = TAKERS.union(
    ("append", "appendleft", "add", "clear", "discard", "extend", "extendleft", "insert"),
    ("move_to_end", "put", "put_nowait", "remove", "reverse", "rotate", "seek", "sort"),
    ("update", "write"),
)
"""Methods that change what they are called on."""

CHANGE_FIRST = frozenset({"heapify", "heappop", "heappush", "heapreplace", "insort", "shuffle"})
"""Functions that change their first argument."""

NOT_IN_PLACE = frozenset({"requires_grad_", "share_memory_"})
"""Methods with the underscore of PyTorch's in-place methods that leave the values as they are."""

HARMLESS = frozenset(
    {"bool", "callable", "hash", "id", "isinstance", "len", "print", "repr", "str", "super", "type"}
)
"""Functions that get `self` and store nothing."""


class CallReader(ast.NodeVisitor):
    """Reads the calls in a function; `guards` are those of the call that led to it."""

    def __init__(self, accesses: Accesses, scope: Scope, guards: frozenset[Guard]) -> None:
        self._accesses = accesses
        self._scope = scope
        self._guards = guards
        self._statement: ast.expr | None = None
        """The expression of the statement at hand, whose value is not used."""

    def _store(self, node: ast.AST, how: How = "changed", *, is_common: bool = False) -> None:
        """Note that the place of an expression gets a value or is changed."""
        place = self._scope.holding(node)
        if place is not None:
            spot, line = self._scope.spot(node, place), getattr(node, "lineno", 0)
            store = Store(place, spot, line, self._guards, how, is_common)
            self._accesses.stores.append(store)

    def visit_Call(self, node: ast.Call) -> None:
        """Read a call."""
        func, name = node.func, ast.unparse(node.func).rpartition(".")[2]
        outs = [keyword.value for keyword in node.keywords if keyword.arg == "out"]
        outs += node.args[:1] if name == "copyto" else []
        for out in outs:
            self._store(out, self._in_place(node))
        if name in CHANGE_FIRST and node.args:
            self._store(node.args[0])
        if self._names(node) or (isinstance(func, ast.Attribute) and self._changes(node, func)):
            return
        callee = self._callee(func)
        if callee is not None:
            taken = self._follow(callee[0], name, callee[1], node)
        else:
            self.visit(func)
            of_class = isinstance(func, ast.Attribute) and self._scope.is_class(func.value)
            is_harmless = of_class or name in HARMLESS or self._scope.place(func) == WRAPPED
            taken = [it for it in node.args if is_harmless and self._scope.place(it) == SELF]
        for argument in _arguments(node):
            if argument not in (*taken, *outs):
                self.visit(argument)

    def _in_place(self, call: ast.Call) -> How:
        return "slice" if call is self._statement else "result"

    def _names(self, node: ast.Call) -> bool:
        """Read `getattr(self, "x")` and the like; returns whether the call is one."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        is_named = name in ("getattr", "hasattr", "setattr", "delattr", "vars") and node.args
        place = self._scope.place(node.args[0]) if is_named else None
        named, others = as_attribute(node), node.args[2:]
        if place is None or (place != SELF and named is None):
            return False
        if named is None:
            self._accesses.escapes |= name != "hasattr"
        elif name == "setattr" and others:
            named.ctx = ast.Store()
            self.visit(ast.copy_location(ast.Assign([named], others.pop(0)), node))
        else:
            named.ctx = ast.Del() if name == "delattr" else ast.Load()
            self.visit(named)
        for argument in others:
            self.visit(argument)
        return True

    def _changes(self, node: ast.Call, func: ast.Attribute) -> bool:
        """Read a call of a method that changes a place; returns whether the call is one."""
        place, name = self._scope.holding(func.value), func.attr
        in_place = name.endswith("_") and not name.endswith("__") and name not in NOT_IN_PLACE
        if place is None or not (in_place or name in MUTATORS):
            return False
        self._store(func.value, self._in_place(node) if in_place else "changed")
        if name in TAKERS:
            self._accesses.load(place, node, gives=False)
        self._beneath(func.value)
        for argument in _arguments(node):
            self.visit(argument)
        return True

    def _beneath(self, node: ast.expr) -> None:
        """Read the indices and arguments in an expression whose place is changed, not loaded."""
        if isinstance(node, ast.Call):
            for argument in _arguments(node):
                if self._scope.place(argument) != SELF:
                    self.visit(argument)
            self._beneath(node.func)
        elif isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Subscript):
                self.visit(node.slice)
            self._beneath(node.value)

    def _callee(self, func: ast.expr) -> tuple[Function, Place | None] | None:
        """The function that an expression stands for, and the place that it is bound to."""
        scope = self._scope
        if isinstance(func, ast.Name):
            helper = scope.helper(func.id)
            return (helper, None) if helper is not None else None
        if not isinstance(func, ast.Attribute):
            return None
        place, start = scope.place(func.value), 0
        if isinstance(func.value, ast.Call) and ast.unparse(func.value.func) == "super":
            place, start = SELF, scope.function.at + 1
        elif place is not None and scope.is_class(func.value):
            start = scope.source.at(place.shown) or 0
        method = scope.source.find(func.attr, start)
        if place is None or place.holds or method is None or method.is_property:
            return None
        if method.takes == "class":
            return method, scope.class_()
        return method, place if method.takes and place == SELF else None

    def _follow(
        self, function: Function, name: str, bound: Place | None, call: ast.Call
    ) -> list[ast.expr]:
        """Read a function later; returns the arguments that are `self`, which are read there."""
        names, taken = arguments_of(function.node), []
        given = {names[0]: bound} if bound is not None and names else {}
        names = names[len(given) :]
        known = takewhile(lambda it: not isinstance(it, ast.Starred), call.args)
        pairs = list(zip(names, known, strict=False))
        pairs += [(it.arg, it.value) for it in call.keywords if it.arg in names]
        for to, argument in pairs:
            place = self._scope.place(argument)
            if place is not None:
                given[to] = place
                taken += [argument] if place == SELF else []
        self._accesses.follow(Task(function, given, self._guards), name)
        return taken


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]
