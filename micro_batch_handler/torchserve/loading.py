"""What is found out about a handler and its settings when the model loads."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from micro_batch_handler.config import STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.reading.stage_state import state_of_class
from micro_batch_handler.torchserve.splitting import Splitting
from micro_batch_handler.torchserve.state_watch import StateWatch, own_classes

__all__ = ["is_one_stage", "refuse_async", "report_settings", "splitting_of"]

logger = logging.getLogger(__name__)

BROUGHT = "micro_batch_handler.torchserve.brought"
"""A class that derives from one of these stands in front of the handler that users know."""


def is_one_stage(handler: Any) -> bool:
    """Whether one method does it all, so that nothing passes between stages; see brought.py."""
    return hasattr(handler, "_micro_batch_one_stage")


def refuse_async(handler: Any) -> None:
    """Refuse a handler whose stages would return a coroutine.

    Raises:
        ConfigError: a stage or `handle` is `async`; it says which.
    """
    only = (handler._micro_batch_one_stage,) if is_one_stage(handler) else ()  # noqa: SLF001 (ours)
    for name in (*only, *STAGES, "handle"):
        method = getattr(handler, name, None)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise ConfigError(
                f"{method.__qualname__} is async, and nobody would await it; write "
                f"'def {method.__name__}', and asyncio.run(...) in it around what must be awaited"
            )


def report_settings(
    config: MicroBatchingConfig, lanes: PerStage[int], batch_size: int, model_yaml: dict[str, Any]
) -> None:
    """Log the sizes and lanes in force, and warn of settings that leave nothing to overlap."""
    for doubt in config.doubts(batch_size):
        logger.warning("%s", doubt)
    section = model_yaml.get("handler")
    if isinstance(section, dict) and section.get("profile"):
        logger.warning(
            "handler.profile: true waits for the device after every stage call, which undoes the "
            "overlap. Remove it from model-config.yaml to serve"
        )
    logger.info("micro-batching %s, lanes %s", config.micro_batch_size, lanes)


def splitting_of(handler: Any, *, one_row: bool) -> Splitting:
    """Whether a handler's batches may be cut, as far as its class shows when it is loaded.

    Args:
        handler: its class is read.
        one_row: whether its source shows that it takes one row a call.
    """
    kind = type(handler)
    if is_one_stage(handler):
        method = getattr(handler, handler._micro_batch_one_stage)  # noqa: SLF001  (ours)
        return Splitting(method.__qualname__, one_row=one_row)
    kinds = own_classes(kind) or [kind]
    behind = [each for each in kinds if each.__bases__[0].__module__ != BROUGHT]
    name = (behind or kinds)[0].__name__
    if getattr(kind, "thread_safe", False) is True:
        return Splitting(name, one_row=one_row)
    state = state_of_class(kind)
    splitting = Splitting(
        name,
        StateWatch(handler, state.harmless),
        one_row=one_row,
        doubtful=state.escapes,
        scratch=state.scratch,
    )
    if state.shared:
        of_batch = any(shared.stored_in == "handle" for shared in state.shared)
        splitting.forbid_state(str(state.shared[0]), of_batch=of_batch)
    return splitting
