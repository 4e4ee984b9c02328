"""The hooks of a handler, told from methods of its own that happen to have their names.

A handler that was written without this package may have a `group_by(items, key)` for itself. So a
method with the name of a hook is one only if it takes a hook's arguments.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from micro_batch_handler.pipeline.payloads.constants import difference
from micro_batch_handler.pipeline.payloads.operations import PayloadOps, count, cut, join, rows_of

__all__ = ["HOOKS", "hook_of", "payload_ops"]

logger = logging.getLogger(__name__)

HOOKS = {
    "cut_payload": ("payload", "start", "stop"),
    "join_payloads": ("payloads",),
    "group_by": ("payload",),
    "example_row": (),
    "initialize_member": ("context",),
}
"""The arguments of each hook."""


def hook_of(handler: Any, name: str, ours: type) -> Callable[..., Any] | None:
    """The hook that a handler overrides; None where it has ours, or another method of that name.

    `ours` is the class that has the default hooks.
    """
    if getattr(type(handler), name, None) is getattr(ours, name):
        return None
    method: Callable[..., Any] = getattr(handler, name)
    try:
        with suppress(ValueError):  # it has no signature, since it is written in C
            inspect.signature(method).bind(*HOOKS[name])
    except TypeError:  # of other arguments, or no method at all
        logger.warning(
            "%s of %s has the name of a hook and cannot be called as %s(%s), so it is left alone",
            name,
            type(handler).__name__,
            name,
            ", ".join(HOOKS[name]),
        )
        return None
    return method


def payload_ops(handler: Any, ours: type) -> PayloadOps:
    """How a handler's payloads are counted, cut and joined: by its hooks, or else by ours.

    If it has hooks for cutting or joining, only they know how many rows a payload has.
    """
    cut_payload = hook_of(handler, "cut_payload", ours)
    join_payloads = hook_of(handler, "join_payloads", ours)
    own = cut_payload is not None or join_payloads is not None
    return PayloadOps(
        (lambda _: None) if own else count,
        (lambda _: None) if own else rows_of,
        cut_payload or cut,
        join_payloads or join,
        None if own else difference,
        hook_of(handler, "group_by", ours),
    )
