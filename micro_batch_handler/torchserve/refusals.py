"""Handlers that cannot share a model: what one process stores, the other does not see.

A hosted stage runs in the process with the model, on rows of several workers, while the other
stages run in the workers. Only what a stage returns travels between them.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.hooks import hook_of
from micro_batch_handler.torchserve.loading import one_stage
from micro_batch_handler.torchserve.reading.hosted_state import refuse_state_across
from micro_batch_handler.torchserve.reading.source import Module, Source, source_of_class
from micro_batch_handler.torchserve.reading.stage_state import state_of_class

__all__ = ["OR_NOT", "SENDERS", "nodes_of", "refuse_unshareable"]

OR_NOT = "or set share_model to false"

PAYLOAD_HOOKS = ("cut_payload", "join_payloads", "group_by")

SENDERS = ("send_intermediate_predict_response", "cl_socket")
"""Names by which a handler sends parts of its answers."""


def refuse_unshareable(handler: Any, hosted: Sequence[Stage]) -> None:
    """Refuse a handler whose answers would be wrong, as far as its class shows.

    Args:
        handler: of a worker; it need not be initialized.
        hosted: the stages that run in the process with the model.

    Raises:
        ConfigError: it cannot share its model; the message says what to change.
    """
    kind = type(handler)
    method = one_stage(handler)
    if method:
        raise ConfigError(
            f"share_model needs a handler with the stages {', '.join(STAGES)}, and "
            f"{getattr(handler, method).__qualname__} answers requests by itself. Let inference "
            f"call the model and the other stages do the rest, {OR_NOT}"
        )
    for stage in (*STAGES[: STAGES.index(hosted[0])][-1:], hosted[-1]):
        if inspect.isgeneratorfunction(inspect.unwrap(getattr(handler, stage))):
            raise ConfigError(
                f"{getattr(handler, stage).__qualname__} returns a generator, which cannot be sent "
                f"to another process (share_model). Return a list, {OR_NOT}"
            )
    hooks = [name for name in PAYLOAD_HOOKS if hook_of(handler, name, MicroBatchMixin)]
    if hooks and hosted[0] == STAGES[0]:
        raise ConfigError(
            f"share_model: {kind.__name__} has {', '.join(hooks)} for what preprocess returns, and "
            f"workers do not see that with hosted_stages [{', '.join(hosted)}]. Set hosted_stages "
            f"to [inference], {OR_NOT}"
        )
    source = source_of_class(kind)
    for stage in hosted:
        line = _sends_parts(source, stage)
        if line:
            raise ConfigError(
                f"{getattr(handler, stage).__qualname__} sends parts of its answers (line {line}), "
                f"and the process with the model (share_model) has no connection to send them by. "
                f"Send them from postprocess, {OR_NOT}"
            )
    state = state_of_class(kind)
    refuse_state_across(kind.__name__, state, hosted)
    for shared in state.shared:
        if shared.kind == "buffer" and shared.stored_in in hosted:
            raise ConfigError(
                f"share_model: {shared}, while the answers of this call are still copied. Return "
                f"a copy of it, {OR_NOT}"
            )


def nodes_of(source: Source, *methods: str) -> Iterator[tuple[ast.AST, Module]]:
    """The code of methods and of those that they call, each part with the module of its file.

    What they call in other files is not read.
    """
    todo = [*methods]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        function = None if name in seen else source.find(name)
        seen.add(name)
        if function is None:
            continue
        for node in ast.walk(function.node):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
                todo.append(node.attr)
            yield node, function.module


def _sends_parts(source: Source, stage: Stage) -> int:
    """The line in which a stage sends a part of an answer; 0 if it sends none."""
    for node, _ in nodes_of(source, stage):
        if not isinstance(node, (ast.Name, ast.Attribute)):
            continue
        if (node.id if isinstance(node, ast.Name) else node.attr) in SENDERS:
            return node.lineno
    return 0
