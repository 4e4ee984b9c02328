"""Handlers that read only the first row of a batch: they are called with one row at a time.

TorchServe's text classifier is one (https://github.com/pytorch/serve/issues/2121), and many
handlers were written after it. Their answers are right if each call has one row.
"""

from __future__ import annotations

import ast
import inspect
import logging
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage, Size
from micro_batch_handler.pipeline.payloads.operations import PayloadOps

__all__ = ["one_row_at_a_time", "takes_first_row_only"]

logger = logging.getLogger(__name__)

ONE = PerStage[Size].of(1)


def one_row_at_a_time(
    handler: Any, config: MicroBatchingConfig, ops: PayloadOps
) -> tuple[MicroBatchingConfig, PayloadOps]:
    """The settings and payload operations of a handler, changed if it reads the first row only.

    If the settings give preprocess a size of 1, the sizes of inference and postprocess stay:
    whoever wrote them knows the handler.
    """
    # A handler without stages names the method that it has instead; see brought.py.
    name = getattr(handler, "_micro_batch_one_stage", "preprocess")
    first = getattr(handler, name, None)
    if first is None or not takes_first_row_only(first, name):
        return config, ops
    sizes = config.micro_batch_size
    later = (sizes.inference, sizes.postprocess) if sizes.preprocess == 1 else (1, 1)
    sizes = PerStage(1, *(1 if size == AUTO else size for size in later))
    logger.warning(
        "%s takes the first row that it gets and no other, so it is called with one at a time, "
        "and the stages after it with %s and %s. Let it take all rows of its argument, and calls "
        "are shared",
        first.__qualname__,
        sizes.inference,
        sizes.postprocess,
    )
    if sizes == ONE:
        # Its payload of one row may look like any number of rows: tokens in a flat tensor.
        ops = replace(ops, count=lambda _: None, rows_of=lambda _: None)
    return replace(config, micro_batch_size=sizes), ops


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
