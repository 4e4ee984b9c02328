"""Checks of a handler and its settings when the model loads, and what follows from them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ts.context import Context

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.config.limits import response_timeout_of
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.torchserve.reading.first_row import takes_first_row_only
from micro_batch_handler.torchserve.reading.stage_state import state_of_class
from micro_batch_handler.torchserve.reading.thread_safety import obstacles_of
from micro_batch_handler.torchserve.splitting import Splitting
from micro_batch_handler.torchserve.state_watch import StateWatch, own_classes
from micro_batch_handler.torchserve.worker_count import worker_count

__all__ = ["LoadedHandler", "load", "one_stage", "patience_s", "report_settings"]

logger = logging.getLogger(__name__)

BROUGHT = "micro_batch_handler.torchserve.brought"
"""A class that derives from one of these stands in front of the handler that users know."""


@dataclass(frozen=True)
class LoadedHandler:
    """What is known of a handler when the model loads."""

    config: MicroBatchingConfig
    """Its settings; with sizes of 1 if it reads the first row of its argument only."""
    ops: PayloadOps
    splitting: Splitting
    obstacles: Mapping[Stage, str]
    """For each stage why it may not be called by several threads at once; empty if it may."""
    batch_size: int
    """The most requests of one batch."""
    workers: Callable[[], int]
    """Counts those of the model."""
    first_row: bool
    """Whether it reads the first row only, so that sizes after it are its author's."""
    profiles: bool
    """Whether TorchServe's `handler.profile` is on."""


def load(handler: Any, ops: PayloadOps, context: Context) -> LoadedHandler:
    """Read the settings of a handler and its class, as `Engine` gets them.

    Raises:
        ConfigError: a setting cannot work, or a stage is `async`.
    """
    _refuse_async(handler)
    model_yaml = getattr(context, "model_yaml_config", None)
    config = MicroBatchingConfig.from_model_yaml(model_yaml)
    if one_stage(handler):
        ops = replace(ops, rows_of=lambda _: None)  # requests, and answers
    in_force, one_row_ops = _one_row_at_a_time(handler, config, ops)
    section = (model_yaml or {}).get("handler")
    return LoadedHandler(
        in_force,
        one_row_ops,
        _splitting_of(handler, one_row=one_row_ops is not ops),
        _obstacles_of(handler),
        context.system_properties.get("batch_size") or 1,
        workers=partial(worker_count, model_yaml),
        first_row=in_force is not config,
        profiles=isinstance(section, dict) and bool(section.get("profile")),
    )


def patience_s(context: Context, stage_timeout_s: float | None) -> float:
    """How long after its begin a batch may still begin to wait for a call of the model host.

    The call may take its time then, and the batch is answered before TorchServe gives up on the
    worker.
    """
    response_s = response_timeout_of(getattr(context, "model_yaml_config", None) or {})
    return 0.9 * response_s - (stage_timeout_s or 0.0)


def one_stage(handler: Any) -> str:
    """The method that a handler has in place of stages; empty if it has stages. See brought.py."""
    return getattr(handler, "_micro_batch_one_stage", "")


def _refuse_async(handler: Any) -> None:
    """Refuse a handler whose stages would return a coroutine.

    Raises:
        ConfigError: a stage or `handle` is `async`; it says which.
    """
    for name in (one_stage(handler), *STAGES, "handle"):
        method = getattr(handler, name, None)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise ConfigError(
                f"{method.__qualname__} is async, and nobody would await it; write "
                f"'def {method.__name__}', and asyncio.run(...) in it around what must be awaited"
            )


def _one_row_at_a_time(
    handler: Any, config: MicroBatchingConfig, ops: PayloadOps
) -> tuple[MicroBatchingConfig, PayloadOps]:
    """The settings and payload operations of a handler, changed if it reads the first row only.

    If the settings give preprocess a size of 1, the sizes of inference and postprocess stay:
    whoever wrote them knows the handler.
    """
    name = one_stage(handler) or STAGES[0]
    first = getattr(handler, name, None)
    if first is None or not takes_first_row_only(first, name):
        return config, ops
    sizes = config.micro_batch_size
    later = (sizes.inference, sizes.postprocess) if sizes.preprocess == 1 else (1, 1)
    sizes = PerStage(1, *(1 if size == AUTO else size for size in later))
    logger.warning(
        "%s takes the first row that it gets and no other, so it is called with one at a time, "
        "and the stages after it with %s and %s. Let it take all rows of its argument, and calls "
        "are shared",
        first.__qualname__,
        sizes.inference,
        sizes.postprocess,
    )
    if sizes == PerStage.of(1):
        # Its payload of one row may look like any number of rows: tokens in a flat tensor.
        ops = replace(ops, count=lambda _: None, rows_of=lambda _: None)
    return replace(config, micro_batch_size=sizes), ops


def report_settings(loaded: LoadedHandler, lanes: PerStage[int]) -> None:
    """Log the sizes and lanes in force, and warn of settings that leave nothing to overlap."""
    for doubt in loaded.config.doubts(loaded.batch_size):
        logger.warning("%s", doubt)
    if loaded.profiles:
        logger.warning(
            "handler.profile: true waits for the device after every stage call, which undoes the "
            "overlap. Remove it from model-config.yaml to serve"
        )
    logger.info("micro-batching %s, lanes %s", loaded.config.micro_batch_size, lanes)


def _obstacles_of(handler: Any) -> Mapping[Stage, str]:
    """Why each stage may not be called by several threads at once."""
    if getattr(handler, "thread_safe", False) is True or one_stage(handler):
        return dict.fromkeys(STAGES, "")
    return obstacles_of(handler)


def _splitting_of(handler: Any, *, one_row: bool) -> Splitting:
    """Whether a handler's batches may be cut, as far as its class shows when it is loaded."""
    kind = type(handler)
    if one_stage(handler):
        return Splitting(getattr(handler, one_stage(handler)).__qualname__, one_row=one_row)
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
