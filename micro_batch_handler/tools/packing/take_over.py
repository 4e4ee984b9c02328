"""What goes in front of a handler that knows no micro-batches: a small file, made for it.

    a class with stages      micro-batching is mixed in front of it
    a built-in handler       the same
    a function               is called as one stage, since it has none
    a class with a `handle`  the same, if that does it all
    a `handle` that calls    refused: micro-batching would pass it over
    the stages

The handler's own file is not touched. What cannot be read in it is looked at again when the model
loads (torchserve/brought.py).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import model_handlers

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.handler_class import BUILT_IN, micro_batches, refuse_unusable
from micro_batch_handler.tools.packing.handler_file import (
    HandlerName,
    check_handler_file,
    entry_point,
)
from micro_batch_handler.tools.packing.handler_notes import weights_notes, whole_notes

__all__ = ["Front", "front_of", "with_front"]

_CLASS = '''\
"""Micro-batching in front of {what}; made by micro-batch-handler."""

from importlib import import_module

from micro_batch_handler.torchserve.brought import BroughtClass


class MicroBatched(BroughtClass, import_module("{module}").{name}):
    pass
'''

_FUNCTION = '''\
"""Micro-batching in front of {what}; made by micro-batch-handler."""

from importlib import import_module

from micro_batch_handler.torchserve.brought import BroughtFunction


class MicroBatched(BroughtFunction):
    function = staticmethod(import_module("{module}").{name})
'''


_HANDLE = '''\
"""Micro-batching in front of {what}; made by micro-batch-handler."""

from importlib import import_module

from micro_batch_handler.torchserve.brought import BroughtHandle


class MicroBatched(BroughtHandle, import_module("{module}").{name}):
    pass
'''


@dataclass(frozen=True)
class Front:
    """A file for the archive's root, to be its handler in place of the one behind it."""

    name: str
    text: str

    note: str
    """What is taken over, and what is not."""


def front_of(handler: str) -> Front:
    """The file for a handler as `--handler` names it.

    Raises:
        ArchiveError: the handler cannot be taken over; says what to change in it.
    """
    if handler in model_handlers:
        if handler not in BUILT_IN:
            raise ArchiveError(
                f"the built-in handler {handler} has a handle() of its own, which answers while "
                f"it computes; micro-batching would pass it over. Pack it without --micro-batch"
            )
        return _front_of_class(handler, f"ts.torch_handler.{handler}", BUILT_IN[handler])
    named = HandlerName.of(handler)
    if not named.file.is_file():
        raise ArchiveError(f"--handler {named.file}: there is no such file")
    check_handler_file(named)
    refuse_unusable(named)
    name, node = entry_point(named)
    handle = _own_handle(node) if isinstance(node, ast.ClassDef) else node
    if isinstance(handle, ast.AsyncFunctionDef):
        raise ArchiveError(
            f"{named.file} line {handle.lineno}: {handle.name} is async, which micro-batching "
            f"cannot call; make it a class with preprocess, inference and postprocess"
        )
    if not isinstance(node, ast.ClassDef):
        return _front_of_one_stage(named.file, name, f"{name}()", _FUNCTION)
    _refuse_own_handle(named.file, node)
    if handle is not None:
        return _front_of_one_stage(named.file, name, f"{name}.handle()", _HANDLE)
    front = _front_of_class(named.file.stem, named.file.stem, name)
    return replace(front, note="; ".join([front.note, *whole_notes(named)]))


def with_front(config: ModelArchiverConfig, folder: Path) -> tuple[ModelArchiverConfig, str]:
    """The same archive with the front as its handler, written to `folder`; and what to say of it.

    The handler that it stands in front of becomes one of the extra files.
    """
    front = front_of(config.handler)
    file = folder / front.name
    file.write_text(front.text, encoding="utf-8")
    behind = [] if config.handler in model_handlers else [str(HandlerName.of(config.handler).file)]
    extra_files = ",".join([*filter(None, [config.extra_files]), *behind])
    note = "; ".join([front.note, *weights_notes(config)])
    return replace(config, handler=str(file), extra_files=extra_files), note


def _front_of_class(stem: str, module: str, name: str) -> Front:
    return Front(
        f"{stem}_micro_batched.py",
        _CLASS.format(what=f"{module}.{name}", module=module, name=name),
        f"{name} gets micro-batching in front of its stages; its file stays as it is",
    )


def _front_of_one_stage(file: Path, name: str, called: str, template: str) -> Front:
    return Front(
        f"{file.stem}_micro_batched.py",
        template.format(what=f"{file.stem}.{called}", module=file.stem, name=name),
        f"{called} in {file} has no stages, so nothing can overlap: it is called on some rows at "
        f"a time. It gains that a fault costs one request, time-outs, deadlines and JSON decoded "
        f"and encoded faster; for the rest make it a class with preprocess, inference and "
        f"postprocess",
    )


def _refuse_own_handle(file: Path, node: ast.ClassDef) -> None:
    where, bases = f"{file} line", ", ".join(map(ast.unparse, node.bases))
    if micro_batches(node):
        raise ArchiveError(
            f"{where} {node.lineno}: {node.name} micro-batches by itself; pack it without "
            f"--micro-batch"
        )
    stored = [
        part.lineno
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and ast.unparse(part) == "self.handle"
    ]
    if stored:
        raise ArchiveError(
            f"{where} {stored[0]} sets self.handle, which passes micro-batching over. "
            f"For TorchServe's MicroBatching(self) change the import to 'from "
            f"micro_batch_handler import MicroBatching' and pack it without --micro-batch; "
            f"else remove the line"
        )
    handle = _own_handle(node)
    if handle is not None and _calls_stages(node, handle):
        raise ArchiveError(
            f"{where} {handle.lineno}: {node.name} has a handle() of its own, which "
            f"micro-batching would pass over. Change two lines and pack it without "
            f"--micro-batch: 'class {node.name}(MicroBatchMixin, {bases or 'BaseHandler'}):', "
            f"and in handle() 'answers = super().handle(data, context)' in place of the calls "
            f"of the stages; or remove handle() if it does no more than BaseHandler's"
        )


def _own_handle(node: ast.ClassDef) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    functions = [s for s in node.body if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return next((function for function in functions if function.name == "handle"), None)


def _calls_stages(node: ast.ClassDef, handle: ast.AST) -> bool:
    """Whether a `handle`, or a method that it calls, calls a stage or the `handle` of a base."""
    methods = {s.name: s for s in node.body if isinstance(s, ast.FunctionDef)}
    todo, seen = [handle], {"handle"}
    while todo:
        for part in ast.walk(todo.pop()):
            if not isinstance(part, ast.Attribute):
                continue
            if part.attr in STAGES or ast.unparse(part) == "super().handle":
                return True
            if part.attr in methods and part.attr not in seen:
                seen.add(part.attr)
                todo.append(methods[part.attr])
    return False
