"""What is said of a handler when it is packed: why its batches will stay whole, if they will."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from micro_batch_handler.tools.handler_file import HandlerName, entry_point
from micro_batch_handler.torchserve.reading.stage_state import state_in_file

__all__ = ["micro_batches", "whole_notes"]

_OURS = {"MicroBatchHandler", "MicroBatchMixin"}

_STREAMS = "send_intermediate_predict_response"


def micro_batches(node: ast.AST | None) -> bool:
    """Whether a class is one of ours by the bases that it names."""
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return bool(_OURS & {ast.unparse(base).rpartition(".")[2] for base in bases})


def whole_notes(handler: HandlerName) -> Iterator[str]:
    """Why the batches of a handler that micro-batches will not be cut, as its file shows."""
    _, node = entry_point(handler)
    tree = ast.parse(handler.file.read_bytes())
    if any(isinstance(name, ast.Name) and name.id == _STREAMS for name in ast.walk(tree)):
        yield (
            f"{handler.file} sends parts of its answers, so its batches stay whole and no call is "
            f"made again"
        )
    if not isinstance(node, ast.ClassDef) or _declares_thread_safe(node):
        return
    for shared in state_in_file(tree, node.name).shared[:1]:
        yield (
            f"{handler.file}: {shared}, so its batches stay whole and nothing overlaps. Hand it on "
            f"with the rows: return (images, sizes) from preprocess, and sizes again from "
            f"inference. If the stages may share it, say thread_safe = True in the class"
        )


def _declares_thread_safe(node: ast.ClassDef) -> bool:
    return any(
        isinstance(statement, ast.Assign) and ast.unparse(statement) == "thread_safe = True"
        for statement in node.body
    )
