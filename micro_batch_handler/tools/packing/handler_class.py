"""A handler's class as its file shows it: what it derives from, what it cannot work with.

What comes from another file is not known here, and nothing is said of it.
"""

from __future__ import annotations

import ast

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.handler_file import HandlerName, entry_point

__all__ = ["BUILT_IN", "is_torchserves", "loads_weights", "micro_batches", "refuse_unusable"]

_OURS = {"MicroBatchHandler", "MicroBatchMixin"}

BUILT_IN = {
    "base_handler": "BaseHandler",
    "text_classifier": "TextClassifier",
    "image_classifier": "ImageClassifier",
    "object_detector": "ObjectDetector",
    "image_segmenter": "ImageSegmenter",
    "dali_image_classifier": "DALIImageClassifier",
}
"""The class of each built-in handler that has the three stages and no `handle` of its own."""

_TORCHSERVES = {"VisionHandler", "TextHandler", *BUILT_IN.values()}
"""Their `initialize` is BaseHandler's, or calls it."""

_NO_HANDLERS = {"ABC", "object"}


def micro_batches(node: ast.AST | None) -> bool:
    """Whether a class is one of ours by the bases that it names."""
    return bool(_OURS & _bases(node))


def is_torchserves(node: ast.AST | None) -> bool:
    """Whether all that a class derives from is TorchServe's; a function derives from nothing."""
    return node is not None and _bases(node) <= _TORCHSERVES | _NO_HANDLERS


def loads_weights(node: ast.AST | None) -> bool:
    """Whether a class loads its model as BaseHandler does, as far as its file shows."""
    if not isinstance(node, ast.ClassDef) or not _is_known(node):
        return False
    own = _methods(node).get("initialize")
    calls = [ast.unparse(it.func) for it in ast.walk(own or node) if isinstance(it, ast.Call)]
    bases = ["super()", *_bases(node)]
    return own is None or any(f"{base}.initialize" in calls for base in bases)


def refuse_unusable(handler: HandlerName) -> None:
    """Refuse a class whose stages cannot be called.

    Raises:
        ArchiveError: it is abstract, or a stage of it is async; says what to change.
    """
    _, node = entry_point(handler)
    if not isinstance(node, ast.ClassDef):
        return
    methods = _methods(node)
    abstract = [name for name, method in methods.items() if _is_abstract(method)]
    if abstract and _is_known(node):
        raise ArchiveError(
            f"{handler.file} line {methods[abstract[0]].lineno}: {node.name} is abstract, so "
            f"TorchServe cannot make an object of it; write {', '.join(abstract)} without "
            f"@abstractmethod, or pack the class that implements it"
        )
    if "handle" in methods and not micro_batches(node):
        return  # it may await its stages, and TorchServe it, with asyncCommunication
    for name in (*STAGES, "handle"):
        if isinstance(methods.get(name), ast.AsyncFunctionDef):
            raise ArchiveError(
                f"{handler.file} line {methods[name].lineno}: {node.name}.{name} is async, and "
                f"nobody would await it; write 'def {name}', and asyncio.run(...) in it around "
                f"what must be awaited"
            )


def _bases(node: ast.AST | None) -> set[str]:
    bases = node.bases if isinstance(node, ast.ClassDef) else []
    return {ast.unparse(base).rpartition(".")[2] for base in bases}


def _is_known(node: ast.ClassDef) -> bool:
    """Whether a class derives from BaseHandler, and from nothing that cannot be read here."""
    bases = _bases(node)
    return bool(bases - _NO_HANDLERS) and bases <= _OURS | _TORCHSERVES | _NO_HANDLERS


def _methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {
        statement.name: statement
        for statement in node.body
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def _is_abstract(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in method.decorator_list}
    return "abstractmethod" in marks
