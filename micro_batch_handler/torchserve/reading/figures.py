"""Values that are about no single row: constants, clocks, and how many there are."""

from __future__ import annotations

import ast
from collections.abc import Collection

__all__ = ["is_figure"]

COUNTS = frozenset({"len", "int", "float", "bool", "round", "min", "max", "abs"})
CLOCKS = frozenset(
    {
        "monotonic",
        "monotonic_ns",
        "now",
        "perf_counter",
        "perf_counter_ns",
        "time",
        "time_ns",
        "utcnow",
    }
)


def is_figure(value: ast.expr, names: Collection[str] = ()) -> bool:
    """Whether a value is one, if these names are.

    >>> is_figure(ast.parse("time.time() - 2 * len(data)", mode="eval").body)
    True
    >>> is_figure(ast.parse("[len(row) for row in data]", mode="eval").body)
    False
    """
    if isinstance(value, ast.Call):
        name = ast.unparse(value.func)
        if name == "len" or name.startswith("time.") or name.rpartition(".")[2] in CLOCKS:
            return True
        return name in COUNTS and all(is_figure(it, names) for it in value.args)
    if isinstance(value, (ast.Name, ast.Attribute)):
        return ast.unparse(value) in names
    if isinstance(value, (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp)):
        parts = [it for it in ast.iter_child_nodes(value) if isinstance(it, ast.expr)]
        return all(is_figure(it, names) for it in parts)
    return isinstance(value, ast.Constant)
