"""What a single expression says: whether a value is common to all rows, or something is missing."""

from __future__ import annotations

import ast
from collections.abc import Collection

from micro_batch_handler.torchserve.reading.scope import Scope

__all__ = ["is_common", "kept", "leaves", "missing"]

COUNTS = frozenset({"len", "int", "float", "bool", "round", "min", "max", "abs"})
CLOCKS = frozenset({"monotonic", "now", "perf_counter", "time", "utcnow"})
"""Names of functions, which may end in `_ns`."""


def is_common(value: ast.expr, names: Collection[str] = ()) -> bool:
    """Whether a value is common to all rows: a constant, a clock, or how many rows there are.

    Args:
        value: an expression.
        names: that stand for such values.

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


def missing(scope: Scope, test: ast.expr, *, when: bool = True) -> str:
    """The key of what is missing where `test` is `when`; empty if nothing is known to be."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return missing(scope, test.operand, when=not when)
    if isinstance(test, ast.BoolOp):
        if isinstance(test.op, ast.And) != when:  # one of the values alone decides nothing
            return ""
        return next(filter(None, (missing(scope, it, when=when) for it in test.values)), "")
    if isinstance(test, ast.Compare):
        is_none = isinstance(test.ops[0], (ast.Is, ast.Eq))
        is_known = is_none or isinstance(test.ops[0], (ast.IsNot, ast.NotEq))
        value = test.comparators[0]
        empty = isinstance(value, ast.Constant) and value.value in (None, False)
        return scope.direct(test.left) if is_known and empty and is_none == when else ""
    return "" if when else scope.direct(test)


def kept(scope: Scope, value: ast.expr) -> str:
    """The key of what keeps its value if it has one, as in `self.x = self.x or make()`."""
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
        return scope.direct(value.values[0])
    return ""


def leaves(statements: list[ast.stmt]) -> bool:
    """Whether nothing after these statements is reached."""
    return isinstance(statements[-1], (ast.Return, ast.Raise, ast.Continue))
