"""What is said of a handler when it is packed: what will not happen that its user may expect."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import model_handlers

from micro_batch_handler.config import SECTION
from micro_batch_handler.tools.packing.handler_class import BUILT_IN, is_torchserves, loads_weights
from micro_batch_handler.tools.packing.handler_file import HandlerName, entry_point
from micro_batch_handler.torchserve.reading.stage_state import state_in_file

__all__ = ["plain_notes", "weights_notes", "whole_notes"]

_STREAMS = "send_intermediate_predict_response"


def plain_notes(handler: HandlerName, settings: Mapping[str, object]) -> Iterator[str]:
    """That a handler does not micro-batch, where its settings ask for that."""
    _, node = entry_point(handler)
    text = handler.file.read_text(encoding="utf-8")
    if SECTION in settings and is_torchserves(node) and "MicroBatching" not in text:
        yield (
            f"{handler.file} does not micro-batch, so nothing reads {SECTION}: in "
            f"model-config.yaml and no batch is cut. Give --micro-batch, or make it a class "
            f"derived from micro_batch_handler.MicroBatchHandler"
        )


def weights_notes(config: ModelArchiverConfig) -> Iterator[str]:
    """That a handler will not find the weights that it loads."""
    if config.serialized_file or config.model_file:
        return
    what = config.handler
    if what not in model_handlers:
        handler = HandlerName.of(what)
        name, node = entry_point(handler)
        if not loads_weights(node):
            return
        what = f"{name} in {handler.file}"
    elif what not in BUILT_IN:
        return
    yield (
        f"{what} loads its model as BaseHandler does, and no worker will start without one: give "
        f"--serialized-file, or --model-file, or write an initialize() that loads it otherwise"
    )


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
