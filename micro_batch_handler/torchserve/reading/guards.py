"""Questions whether something is there already: what is filled in once is no state."""

from __future__ import annotations

import ast

from micro_batch_handler.torchserve.reading.scope import Scope

__all__ = ["kept", "leaves", "missing"]


def missing(scope: Scope, test: ast.expr, *, when: bool = True) -> str:
    """The key of what is missing where a test is true, or else where it is false."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return missing(scope, test.operand, when=not when)
    if isinstance(test, ast.BoolOp):
        if isinstance(test.op, ast.And) != when:  # one of them is not enough
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
    """The key of what keeps its value if it has one: `self.x or make()`."""
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
        return scope.direct(value.values[0])
    return ""


def leaves(statements: list[ast.stmt]) -> bool:
    """Whether nothing after these is reached."""
    return isinstance(statements[-1], (ast.Return, ast.Raise, ast.Continue))
