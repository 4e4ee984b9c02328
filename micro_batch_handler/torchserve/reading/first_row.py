"""Whether a stage reads only the first row of its batch, as its source shows.

TorchServe's text classifier does (https://github.com/pytorch/serve/issues/2121), and many handlers
were written after it. Their answers are right if each call has one row.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["takes_first_row_only"]


def takes_first_row_only(function: Callable[..., Any], name: str) -> bool:
    """Whether a method or function uses its first argument as `data[0]` only, by its source.

    False if there is no source, or if the source does not show it.

    Args:
        function: may be decorated.
        name: by which it is found under decorators that hide it.
    """
    takes_self = inspect.ismethod(function)
    try:
        source = textwrap.dedent(inspect.getsource(_undecorated(function, name)))
        (definition,) = ast.parse(source).body
    except (OSError, TypeError, ValueError, SyntaxError):
        return False
    if not isinstance(definition, ast.FunctionDef):
        return False
    arguments = [argument.arg for argument in definition.args.args][int(takes_self) :]
    return bool(arguments) and _only_first(definition, arguments[0])


def _undecorated(function: Any, name: str) -> Any:
    """The function under its decorators; TorchServe's `timed` has it in its closure only."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    while True:
        cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        inner = [found for found in cells if getattr(found, "__name__", "") == name]
        if not inner or function.__name__ == name:
            return function
        function = inspect.unwrap(inner[0])


def _only_first(definition: ast.FunctionDef, name: str) -> bool:
    firsts = {
        node.value
        for node in ast.walk(definition)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and node.slice.value == 0
    }
    looked_at = {  # `data is None`, by which functions tell that the model is only loaded
        node.left
        for node in ast.walk(definition)
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot))
    }
    used = [use for use in _until_rebound(definition, name) if use not in looked_at]
    return bool(used) and all(use in firsts for use in used)


def _until_rebound(definition: ast.FunctionDef, name: str) -> Iterator[ast.Name]:
    """The places where the argument is read, up to the statement that gives it another value."""
    for statement in definition.body:
        uses = [
            node for node in ast.walk(statement) if isinstance(node, ast.Name) and node.id == name
        ]
        yield from (use for use in uses if isinstance(use.ctx, ast.Load))
        if isinstance(statement, ast.Assign) and any(
            isinstance(use.ctx, ast.Store) for use in uses
        ):
            return
