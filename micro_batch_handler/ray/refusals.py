"""Handlers that Ray Serve cannot serve, as far as their classes show."""

from __future__ import annotations

import ast

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.torchserve.reading.source import source_of_class
from micro_batch_handler.torchserve.refusals import nodes_of

__all__ = ["refuse_signals"]


def refuse_signals(kind: type) -> None:
    """Refuse a handler whose class shows that it sets a signal's handler when it answers.

    One that looks whether it is in the main thread, or is ready for an error, is not refused.

    Raises:
        ArchiveError: it does so; the message says what to change.
    """
    nodes = [*nodes_of(source_of_class(kind), "handle", *STAGES)]
    careful = {
        id(inner)
        for node, _ in nodes
        if isinstance(node, ast.Try)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    if any(_name(node) == "main_thread" for node, _ in nodes):
        return
    for node, module in nodes:
        if not isinstance(node, ast.Call) or id(node) in careful or _name(node.func) != "signal":
            continue
        origin = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if module.imports.get(_name(origin)) == "signal":
            raise ArchiveError(
                f"{module.name} line {node.lineno} sets the handler of a signal, which Python "
                f"allows in the main thread only, and that is Ray's. Bound the time of a stage "
                f"with micro_batching.stage_timeout, or serve this archive with TorchServe"
            )


def _name(node: ast.AST) -> str:
    """Of a name or an attribute; empty for anything else."""
    return str(getattr(node, "attr", "") or getattr(node, "id", ""))
