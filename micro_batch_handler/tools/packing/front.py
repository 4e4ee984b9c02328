"""The front of a handler that does not micro-batch: a small file that is packed as the handler.

    a class with stages      micro-batching is mixed in front of it
    a built-in handler       the same
    a function               it is called as one stage, since it has none
    a class with a `handle`  the same, if that method does all the work
    a `handle` that calls    refused: micro-batching would pass it over
    the stages

The handler's own file is packed as it is. What its file does not show is checked again when the
model loads (torchserve/brought.py).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.handler_class import (
    BUILT_IN,
    Handler,
    micro_batches,
    read_handler,
    refuse_unshared,
    weights_notes,
    whole_notes,
)
from micro_batch_handler.tools.packing.handler_file import HandlerFile
from micro_batch_handler.tools.packing.model_config import read_model_config

__all__ = ["Front", "front_of", "with_front"]

_TEXT = '''\
"""Micro-batching in front of {what}; made by micro-batch-handler."""

from importlib import import_module

from micro_batch_handler.torchserve.brought import {ours}


class MicroBatched({bases}):
    {body}
'''


@dataclass(frozen=True)
class Front:
    """A file for the archive's root, to be its handler in place of the one behind it."""

    name: str
    text: str

    note: str
    """What is taken over, and what is not."""


def front_of(handler: Handler) -> Front:
    """The front of a handler.

    Raises:
        ArchiveError: the handler cannot be taken over; the message says what to change in it.
    """
    if isinstance(handler, str):
        return _front_of_built_in(handler)
    module, name = handler.path.stem, handler.name
    handle = handler.methods.get("handle") if handler.class_node else handler.node
    if isinstance(handle, ast.AsyncFunctionDef):
        raise ArchiveError(
            f"{handler.path} line {handle.lineno}: {handle.name} is async, which micro-batching "
            f"cannot call; make it a class with preprocess, inference and postprocess"
        )
    if handler.class_node:
        _refuse_what_is_passed_over(handler, handler.class_node)
        if handle is None:
            note = "; ".join([_class_note(name), *whole_notes(handler)])
            return _front("BroughtClass", module, name, name, note)
    called = f"{name}.handle()" if handler.class_node else f"{name}()"
    note = (
        f"{called} in {handler.path} has no stages, so nothing can overlap: it is called on some "
        f"rows at a time. It gains that a fault costs one request, time-outs, deadlines and JSON "
        f"decoded and encoded faster; for the rest make it a class with preprocess, inference and "
        f"postprocess"
    )
    ours = "BroughtHandle" if handler.class_node else "BroughtFunction"
    return _front(ours, module, name, called, note)


def with_front(config: ModelArchiverConfig, folder: Path) -> tuple[ModelArchiverConfig, str]:
    """The same archive with a front as its handler, and a note on it.

    The front is written to `folder`. The handler behind it becomes one of the extra files.

    Raises:
        ArchiveError: the handler cannot be taken over; the message says what to change in it.
        ConfigError: its stages share what `share_model` puts into two processes.
    """
    handler = read_handler(config.handler)
    if config.config_file and Path(config.config_file).is_file():
        refuse_unshared(handler, read_model_config(Path(config.config_file)))
    front = front_of(handler)
    file = folder / front.name
    file.write_text(front.text, encoding="utf-8")
    behind = [] if isinstance(handler, str) else [str(handler.path)]
    extra_files = ",".join([*filter(None, [config.extra_files]), *behind])
    note = "; ".join([front.note, *weights_notes(handler, config)])
    return replace(config, handler=str(file), extra_files=extra_files), note


def _front_of_built_in(handler: str) -> Front:
    if handler not in BUILT_IN:
        raise ArchiveError(
            f"the built-in handler {handler} has a handle() of its own, which answers while "
            f"it computes; micro-batching would pass it over. Pack it without --micro-batch"
        )
    name = BUILT_IN[handler]
    return _front("BroughtClass", f"ts.torch_handler.{handler}", name, name, _class_note(name))


def _class_note(name: str) -> str:
    return f"{name} gets micro-batching in front of its stages; its file stays as it is"


def _front(ours: str, module: str, name: str, called: str, note: str) -> Front:
    """The file that puts one of our classes in front of what the module calls `name`."""
    behind = f'import_module("{module}").{name}'
    if ours == "BroughtFunction":
        bases, body = ours, f"function = staticmethod({behind})"
    else:
        bases, body = f"{ours}, {behind}", "pass"
    text = _TEXT.format(what=f"{module}.{called}", ours=ours, bases=bases, body=body)
    return Front(f"{module.rpartition('.')[2]}_micro_batched.py", text, note)


def _refuse_what_is_passed_over(handler: HandlerFile, node: ast.ClassDef) -> None:
    where = f"{handler.path} line"
    if micro_batches(handler):
        raise ArchiveError(
            f"{where} {node.lineno}: {node.name} micro-batches by itself; pack it without "
            f"--micro-batch"
        )
    attributes = (part for part in ast.walk(node) if isinstance(part, ast.Attribute))
    for part in attributes:
        if isinstance(part.ctx, ast.Store) and ast.unparse(part) == "self.handle":
            raise ArchiveError(
                f"{where} {part.lineno} sets self.handle, which passes micro-batching over. "
                f"For TorchServe's MicroBatching(self) change the import to 'from "
                f"micro_batch_handler import MicroBatching' and pack it without --micro-batch; "
                f"else remove the line"
            )
    handle = handler.methods.get("handle")
    if handle is not None and _calls_stages(handle, handler.methods):
        bases = ", ".join(map(ast.unparse, node.bases)) or "BaseHandler"
        raise ArchiveError(
            f"{where} {handle.lineno}: {node.name} has a handle() of its own, which "
            f"micro-batching would pass over. Change two lines and pack it without "
            f"--micro-batch: 'class {node.name}(MicroBatchMixin, {bases}):', "
            f"and in handle() 'answers = super().handle(data, context)' in place of the calls "
            f"of the stages; or remove handle() if it does no more than BaseHandler's"
        )


def _calls_stages(handle: ast.AST, methods: Mapping[str, ast.AST]) -> bool:
    """Whether a `handle`, or a method that it calls, calls a stage or the `handle` of a base."""
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
