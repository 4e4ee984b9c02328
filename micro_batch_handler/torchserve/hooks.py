"""Methods that a handler may override for us, and methods of its own that only have their names.

A handler that was written before us may have a `group_by(items, key)` for itself. So what has the
name of a hook is one only if it takes what we would give it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, cast

__all__ = ["HOOKS", "hook_of"]

logger = logging.getLogger(__name__)

HOOKS = {
    "cut_payload": ("payload", "start", "stop"),
    "join_payloads": ("payloads",),
    "group_by": ("payload",),
    "example_row": (),
}
"""The hooks, and what each takes."""


def hook_of(handler: Any, name: str, ours: type) -> Callable[..., Any] | None:
    """The handler's own hook of this name; None where it has ours, or another method.

    Args:
        handler: whose.
        name: of the hook.
        ours: the class that has the hook as it is by default.
    """
    if getattr(type(handler), name, None) is getattr(ours, name):
        return None
    method: Any = getattr(handler, name)
    if _takes(method, HOOKS[name]):
        return cast("Callable[..., Any]", method)
    logger.warning(
        "%s of %s has the name of a hook and cannot be called as %s(%s), so it is left alone",
        name,
        type(handler).__name__,
        name,
        ", ".join(HOOKS[name]),
    )
    return None


def _takes(method: Any, arguments: tuple[str, ...]) -> bool:
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # made in C, perhaps
        return True
    return True
