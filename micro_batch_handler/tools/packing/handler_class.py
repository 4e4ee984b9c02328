"""A handler's class as its file shows it: refused if it cannot serve, and notes for its user.

A base class from another file is not read, so there are no notes on what it may do.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Union

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import model_handlers

from micro_batch_handler.config import AUTO, SECTION, STAGES, MicroBatchingConfig
from micro_batch_handler.errors import ArchiveError, ConfigError
from micro_batch_handler.tools.packing.handler_file import HandlerFile
from micro_batch_handler.torchserve.reading.hosted_state import refuse_state_across
from micro_batch_handler.torchserve.reading.stage_state import state_in_file
from micro_batch_handler.torchserve.reading.thread_safety import obstacles_in_file

__all__ = [
    "BUILT_IN",
    "Handler",
    "micro_batches",
    "packing_notes",
    "read_handler",
    "refuse_unshared",
    "weights_notes",
    "whole_notes",
]

Handler = Union[HandlerFile, str]
"""A handler file, or the name of a handler that is built into TorchServe."""

BUILT_IN = {
    "base_handler": "BaseHandler",
    "text_classifier": "TextClassifier",
    "image_classifier": "ImageClassifier",
    "object_detector": "ObjectDetector",
    "image_segmenter": "ImageSegmenter",
    "dali_image_classifier": "DALIImageClassifier",
}
"""The class of each built-in handler that has the three stages and no `handle` of its own."""

_OURS = {"MicroBatchHandler", "MicroBatchMixin"}

_TORCHSERVES = {"VisionHandler", "TextHandler", *BUILT_IN.values()}
"""Classes whose `initialize` is BaseHandler's, or calls it."""

_NO_HANDLERS = {"ABC", "object"}

_SENDS_PARTS = "send_intermediate_predict_response"


def read_handler(handler: str, source: bytes | None = None) -> Handler:
    """Read what `--handler` names.

    Args:
        handler: a built-in handler, `handler.py`, `handler` or `handler.py:function`.
        source: the file's content, if it is not on disk.

    Raises:
        ArchiveError: TorchServe could not load it, or the stages of its class could not be
            called; the message says what to change.
    """
    if handler in model_handlers:
        return handler
    file = HandlerFile.of(handler, source)
    _refuse_abstract(file)
    _refuse_async(file)
    return file


def micro_batches(handler: HandlerFile) -> bool:
    """Whether the handler is a class that names one of ours among its bases."""
    return bool(_OURS & handler.bases)


def refuse_unshared(handler: Handler, model_config: Mapping[str, object]) -> None:
    """Refuse a handler whose stages share what `share_model` puts into two processes.

    Raises:
        ConfigError: they do; it says where, and what to change.
    """
    try:
        config = MicroBatchingConfig.from_model_yaml(model_config)
    except ConfigError:
        return  # is refused where settings are checked
    if not config.share_model or isinstance(handler, str) or handler.class_node is None:
        return
    if "handle" not in handler.methods or micro_batches(handler):  # else it is one stage
        state = state_in_file(handler.tree, handler.name)
        refuse_state_across(str(handler.path), state, config.hosted_stages)


def packing_notes(
    handler: Handler, config: ModelArchiverConfig, model_config: Mapping[str, object]
) -> Iterator[str]:
    """Notes on a handler that is packed as it is: what its user may expect in vain."""
    if isinstance(handler, str):
        yield f"the built-in handler {handler} does not micro-batch; for that, give --micro-batch"
    elif micro_batches(handler):
        whole = list(whole_notes(handler))
        yield from whole or _lane_notes(handler, model_config)
    elif SECTION in model_config and _is_torchserves(handler):
        yield (
            f"{handler.path} does not micro-batch, so nothing reads {SECTION}: in "
            f"model-config.yaml and no batch is cut. Give --micro-batch, or make it a class "
            f"derived from micro_batch_handler.MicroBatchHandler"
        )
    yield from weights_notes(handler, config)


def weights_notes(handler: Handler, config: ModelArchiverConfig) -> Iterator[str]:
    """A note if the handler loads weights that no flag gives it."""
    if config.serialized_file or config.model_file:
        return
    if isinstance(handler, str):
        what = handler if handler in BUILT_IN else ""
    else:
        what = f"{handler.name} in {handler.path}" if _loads_weights(handler) else ""
    if what:
        yield (
            f"{what} loads its model as BaseHandler does, and no worker will start without one: "
            f"give --serialized-file, or --model-file, or write an initialize() that loads it "
            f"otherwise"
        )


def whole_notes(handler: HandlerFile) -> Iterator[str]:
    """Notes on why a handler's batches will stay whole, as far as its file shows."""
    names = (node.id for node in ast.walk(handler.tree) if isinstance(node, ast.Name))
    if _SENDS_PARTS in names:
        yield (
            f"{handler.path} sends parts of its answers, so its batches stay whole and no call is "
            f"made again"
        )
    if handler.class_node is None or _declares_thread_safe(handler.class_node):
        return
    for shared in state_in_file(handler.tree, handler.name).shared[:1]:
        yield (
            f"{handler.path}: {shared}, so its batches stay whole and nothing overlaps. Hand it on "
            f"with the rows: return (images, sizes) from preprocess, and sizes again from "
            f"inference. If the stages may share it, say thread_safe = True in the class"
        )


def _lane_notes(handler: HandlerFile, model_config: Mapping[str, object]) -> Iterator[str]:
    """Notes on stages that `auto` gives one lane, as far as the file shows."""
    node = handler.class_node
    try:
        config = MicroBatchingConfig.from_model_yaml(model_config)
    except ConfigError:
        return  # is refused where settings are checked
    if node is None or config.share_model or _declares_thread_safe(node):
        return
    for stage, why in obstacles_in_file(handler.tree, handler.name).items():
        open_ = config.parallelism[stage] == AUTO and stage != "inference"
        if why and open_ and stage in handler.methods:
            yield (
                f"{handler.path}: {stage} gets one lane, since {why}. If it may run in several "
                f"threads at once, say thread_safe = True in the class, or set "
                f"{SECTION}.parallelism.{stage}"
            )


def _refuse_abstract(handler: HandlerFile) -> None:
    abstract = {
        name: method.lineno
        for name, method in handler.methods.items()
        for mark in method.decorator_list
        if ast.unparse(mark).rpartition(".")[2] == "abstractmethod"
    }
    if abstract and _is_known(handler):
        raise ArchiveError(
            f"{handler.path} line {min(abstract.values())}: {handler.name} is abstract, so "
            f"TorchServe cannot make an object of it; write {', '.join(abstract)} without "
            f"@abstractmethod, or pack the class that implements it"
        )


def _refuse_async(handler: HandlerFile) -> None:
    methods = handler.methods
    if "handle" in methods and not micro_batches(handler):
        return  # it may await its stages, and TorchServe it, with asyncCommunication
    for name in (*STAGES, "handle"):
        if isinstance(methods.get(name), ast.AsyncFunctionDef):
            raise ArchiveError(
                f"{handler.path} line {methods[name].lineno}: {handler.name}.{name} is async, and "
                f"nobody would await it; write 'def {name}', and asyncio.run(...) in it around "
                f"what must be awaited"
            )


def _is_torchserves(handler: HandlerFile) -> bool:
    """Whether the handler derives from nothing but TorchServe's classes, and uses none of ours."""
    derives = handler.node is not None and handler.bases <= _TORCHSERVES | _NO_HANDLERS
    return derives and "MicroBatching" not in ast.unparse(handler.tree)


def _loads_weights(handler: HandlerFile) -> bool:
    """Whether a class loads its model as BaseHandler does, as far as its file shows."""
    if not _is_known(handler):
        return False
    own = handler.methods.get("initialize")
    if own is None:
        return True
    calls = {ast.unparse(it.func) for it in ast.walk(own) if isinstance(it, ast.Call)}
    return any(f"{base}.initialize" in calls for base in ["super()", *handler.bases])


def _is_known(handler: HandlerFile) -> bool:
    """Whether a class derives from BaseHandler, and from nothing that cannot be read here."""
    known = handler.bases <= _OURS | _TORCHSERVES | _NO_HANDLERS
    return known and bool(handler.bases - _NO_HANDLERS)


def _declares_thread_safe(node: ast.ClassDef) -> bool:
    return any(
        isinstance(statement, ast.Assign) and ast.unparse(statement) == "thread_safe = True"
        for statement in node.body
    )
