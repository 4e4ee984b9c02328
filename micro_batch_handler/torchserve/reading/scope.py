"""What the expressions in a function stand for, if that outlives the function's call."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from copy import copy

from micro_batch_handler.torchserve.reading.accesses import CONTEXT, CONTEXTS, SELF, WRAPPED, Place
from micro_batch_handler.torchserve.reading.source import (
    DEFS,
    Def,
    Function,
    Source,
    arguments_of,
)

__all__ = ["Scope", "as_attribute", "is_common", "leaves"]

COUNTS = frozenset({"len", "int", "float", "bool", "round", "min", "max", "abs"})
CLOCKS = frozenset({"monotonic", "now", "perf_counter", "time", "utcnow"})
"""Names of functions, which may end in `_ns`."""


class Scope:
    """The names of one function, whose arguments stand for the places that are given.

    Attributes:
        known: the places that names stand for.
        once: names that get a value once.
        globals: names that the function declares global.
        locals: names that belong to the function.
    """

    def __init__(self, source: Source, function: Function, given: Mapping[str, Place]) -> None:
        self.source = source
        self.function = function
        node, arguments = function.node, arguments_of(function.node)
        inner = list(ast.walk(node))
        self.globals = {name for n in inner if isinstance(n, ast.Global) for name in n.names}
        names = [n for n in inner if isinstance(n, ast.Name)]
        bound = [name.id for name in names if isinstance(name.ctx, ast.Store)]
        self.once = {name for name in bound if bound.count(name) == 1}
        self.locals = ({*arguments, *bound} - self.globals) | _defined(node)
        self.known = {name: CONTEXT for name in arguments if f".{name}" in CONTEXTS}
        if function.takes and arguments:
            self.known[arguments[0]] = SELF if function.takes == "self" else self.class_()
        # An argument that gets another value no longer stands for what was given.
        self.known.update(
            (name, place) for name, place in given.items() if place == SELF or name not in bound
        )

    def within(self, node: Def | ast.Lambda) -> Scope:
        """The scope of a function in the function."""
        inner, arguments = copy(self), set(arguments_of(node))
        inner.known = {name: it for name, it in self.known.items() if name not in arguments}
        inner.locals = self.locals | arguments
        return inner

    def alias(self, name: str, place: Place) -> bool:
        """Let a name stand for a place that it alone gets; returns whether that is all it does."""
        if name in self.globals:
            return False
        if place == SELF or (name in self.once and name not in self.known):
            self.known[name] = place
        return place == SELF

    def helper(self, name: str) -> Function | None:
        """The function of the module for which a name stands."""
        functions = self.function.module.functions
        if name in self.locals or name in self.known or name not in functions:
            return None
        return Function(functions[name], self.function.module)

    def class_(self, name: str = "") -> Place:
        """The place of a class of the handler; of the handler's own if `name` is empty."""
        return Place("class", name or self.source.classes[0].name)

    def place(self, node: ast.AST) -> Place | None:
        """The place that an expression is, or is a part of."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id) or self._outside(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, (ast.Subscript, ast.NamedExpr, ast.Starred)):
            return self.place(node.value)
        return self._result(node) if isinstance(node, ast.Call) else None

    def holding(self, node: ast.AST) -> Place | None:
        """The same, but only an attribute or a name of a module."""
        place = self.place(node)
        return place if place is not None and place.holds else None

    def is_class(self, node: ast.AST) -> bool:
        """Whether an expression is a class of the handler."""
        place = self.place(node)
        return place is not None and place.key == "class"

    def direct(self, node: ast.expr) -> str:
        """The key of the place that an expression is; empty if it is only a part of one."""
        named = as_attribute(node) if isinstance(node, ast.Call) else node
        if isinstance(named, ast.Attribute):
            base = self.place(named.value)
            if base is None or base.holds:
                return ""
        elif not isinstance(named, ast.Name):
            return ""
        place = self.holding(named)
        return place.key if place is not None else ""

    def spot(self, node: ast.AST, place: Place) -> str:
        """The full name of what is stored: of the place, or of an attribute of the object there."""
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            if isinstance(node, ast.Attribute) and self.direct(node.value) == place.key:
                return f"{place.shown}.{node.attr}"
            node = node.value
        return place.shown

    def missing(self, test: ast.expr, *, when: bool = True) -> str:
        """The key of what is missing where `test` is `when`; empty if nothing is known to be."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.missing(test.operand, when=not when)
        if isinstance(test, ast.BoolOp):
            if isinstance(test.op, ast.And) != when:  # one of the values alone decides nothing
                return ""
            return next(filter(None, (self.missing(it, when=when) for it in test.values)), "")
        if isinstance(test, ast.Compare):
            is_none = isinstance(test.ops[0], (ast.Is, ast.Eq))
            is_known = is_none or isinstance(test.ops[0], (ast.IsNot, ast.NotEq))
            value = test.comparators[0]
            empty = isinstance(value, ast.Constant) and value.value in (None, False)
            return self.direct(test.left) if is_known and empty and is_none == when else ""
        return "" if when else self.direct(test)

    def kept(self, value: ast.expr) -> str:
        """The key of what keeps its value if it has one, as in `self.x = self.x or make()`."""
        if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
            return self.direct(value.values[0])
        return ""

    def _outside(self, name: str) -> Place | None:
        if name in self.locals:
            return None
        if self.source.at(name) is not None:
            return self.class_(name)
        module = self.function.module
        if name in module.values or name in self.globals:
            return Place(f"{module.name}:{name}", name)
        return None

    def _attribute(self, node: ast.Attribute) -> Place | None:
        base = self.place(node.value)
        if base is not None and base.key in CONTEXTS:
            return Place(f"{CONTEXT.key}.{node.attr}", f"{base.shown}.{node.attr}")
        if base is None:
            return self._of_class(node)
        if base.holds or base == WRAPPED:
            return base
        if node.attr == "__class__":
            return self.class_()
        method = self.source.find(node.attr)
        if node.attr == "__dict__" or (method is not None and not method.is_property):
            return None
        return Place(f".{node.attr}", f"{base.shown}.{node.attr}")

    def _of_class(self, node: ast.Attribute) -> Place | None:
        """An attribute of another class of the file, or a base by its dotted name."""
        module = self.function.module
        if isinstance(node.value, ast.Name) and node.value.id in module.classes:
            name = f"{node.value.id}.{node.attr}"
            return Place(f"{module.name}:{name}", name)
        return self.class_() if ast.unparse(node) in self.source.bases else None

    def _result(self, call: ast.Call) -> Place | None:
        named = as_attribute(call)
        if named is not None:
            return self.place(named)
        if isinstance(call.func, ast.Name) and call.func.id == "type" and len(call.args) == 1:
            return self.class_() if self.place(call.args[0]) == SELF else None
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("get", "setdefault"):
            return self.holding(call.func.value)
        return None


def as_attribute(call: ast.Call) -> ast.Attribute | None:
    """`self.x` for `getattr(self, "x")` and the like; None where the name is no constant."""
    name = call.args[1] if len(call.args) > 1 else None
    called = call.func.id if isinstance(call.func, ast.Name) else ""
    if called not in ("getattr", "hasattr", "setattr", "delattr"):
        return None
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        return None
    return ast.copy_location(ast.Attribute(call.args[0], name.value, ast.Load()), call)


def is_common(value: ast.expr, names: Collection[str] = ()) -> bool:
    """Whether a value is common to all rows: a constant, a clock, or how many rows there are.

    So are the values for which `names` stand.

    >>> is_common(ast.parse("time.time() - 2 * len(data)", mode="eval").body)
    True
    >>> is_common(ast.parse("[len(row) for row in data]", mode="eval").body)
    False
    """
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func)
        if (
            name == "len"
            or name.startswith("time.")
            or name.rpartition(".")[2].removesuffix("_ns") in CLOCKS
        ):
            return True
        return name in COUNTS and all(is_common(it, names) for it in value.args)
    if isinstance(value, (ast.Name, ast.Attribute)):
        return ast.unparse(value) in names
    if isinstance(value, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)):
        parts = [it for it in ast.iter_child_nodes(value) if isinstance(it, ast.expr)]
        return all(is_common(it, names) for it in parts)
    return isinstance(value, ast.Constant)


def leaves(statements: list[ast.stmt]) -> bool:
    """Whether nothing after these statements is reached."""
    return isinstance(statements[-1], (ast.Return, ast.Raise, ast.Continue))


def _defined(node: Def) -> set[str]:
    """The names that a function defines by def, class, import and except."""
    kinds = (*DEFS, ast.ClassDef, ast.ExceptHandler)
    inner = [it for it in ast.walk(node) if it is not node]
    return {it.name for it in inner if isinstance(it, kinds) and it.name} | {
        (it.asname or it.name).partition(".")[0] for it in inner if isinstance(it, ast.alias)
    }
