"""What an engine is put together from, made for the settings of one handler."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any

import torch

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.thread_state import ThreadState
from micro_batch_handler.pipeline.device.work import NoStreams, Observe
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.planning.cores import MOST_PER_CORE, IntraOpThreads, lanes_for
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.metrics.batch_metrics import BatchMetrics
from micro_batch_handler.torchserve.reading.stage_state import state_of_class
from micro_batch_handler.torchserve.routed import viewed_by
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.splitting import Splitting
from micro_batch_handler.torchserve.state_watch import StateWatch, own_classes
from micro_batch_handler.torchserve.wire.encode import encode, is_json

__all__ = [
    "is_one_stage",
    "lane_setup",
    "lanes_of",
    "observer",
    "refuse_async",
    "splitting_of",
    "stage_function",
    "streams_for",
    "threads_of",
    "warn_if_serial",
]

logger = logging.getLogger(__name__)


def threads_of(config: MicroBatchingConfig, lanes: PerStage[int], cores: int) -> IntraOpThreads:
    """The threads of PyTorch; a handler that has asked for fewer than all cores gets fewer."""
    most = min(torch.get_num_threads(), cores)
    return IntraOpThreads.of(config.intra_op_threads, lanes, cores, most)


def lane_setup(threads: IntraOpThreads, device: Accelerator | None) -> Callable[[Stage], None]:
    """What each lane begins with; sets the threads of this one, too, where small batches run."""
    state = ThreadState.capture(device.device.type if device else None)
    torch.set_num_threads(threads.unsplit)
    logger.info("threads of PyTorch in each lane %s, unsplit %d", threads.lanes, threads.unsplit)

    def setup(stage: Stage) -> None:
        state.apply()
        # Here, since it counts for the thread that says it.
        torch.set_num_threads(threads.lanes[stage])

    return setup


def observer(planner: Planner, metrics: BatchMetrics | None) -> Observe | None:
    """Who is told how long calls take."""
    if metrics is None:
        return planner.observe if planner.tunes else None
    if not planner.tunes:
        return metrics.observe

    def both(stage: Stage, rows: int, seconds: float) -> None:
        planner.observe(stage, rows, seconds)
        metrics.observe(stage, rows, seconds)

    return both


def streams_for(
    config: MicroBatchingConfig, device: Accelerator | None, observe: Observe | None
) -> Streams | NoStreams:
    """The streams of the handler's device, as its settings want them."""
    if device is None or not config.device.streams:
        return NoStreams(observe, device)
    return Streams(
        device,
        copy_in=config.device.copy_in,
        copy_out=config.device.copy_out,
        pinned_bytes=config.device.pinned_bytes,
        observe=observe,
    )


def stage_function(handler: Any, stage: Stage) -> StageFunction:
    """What a lane calls: the handler's method, in the view of the rows that it gets."""

    def call(batch: ServedBatch, indices: Sequence[int], payload: Payload) -> tuple[Payload, Keep]:
        view = MicroBatchContext(batch.context, indices, batch)
        variables = copy_context() if batch.watched else None
        with viewed_by(handler, view):
            # Looked up at each call, since handlers may replace a stage on the instance.
            try:
                result = getattr(handler, stage)(payload)
            except BaseException:
                batch.failed()
                raise
        batch.returned(stage)
        if variables is not None and _has_changed(variables):
            batch.only_whole(f"{stage} sets a context variable, which other threads do not see")
        if batch.encoded and stage == STAGES[-1] and isinstance(result, list):
            view.answers_json([at for at, answer in enumerate(result) if is_json(answer)])
            result = [encode(answer) for answer in result]
        return result, view.keep

    return call


def _has_changed(before: Variables) -> bool:
    """Whether a context variable has another value than it had."""
    now = copy_context()
    return any(variable not in before or before[variable] is not now[variable] for variable in now)


def lanes_of(config: MicroBatchingConfig, cores: int) -> PerStage[int]:
    """The lanes of each stage on a machine with so many cores; says where they are fewer."""
    lanes = lanes_for(config.parallelism, cores)
    for stage in STAGES:
        wanted = config.parallelism[stage]
        if wanted not in (AUTO, lanes[stage]):
            logger.warning(
                "micro_batching.parallelism.%s is %s, and %d lanes are started: at most %d a core, "
                "and this worker may use %d. Lower it, or give the worker more cores",
                stage,
                wanted,
                lanes[stage],
                MOST_PER_CORE,
                cores,
            )
    return lanes


def warn_if_serial(
    config: MicroBatchingConfig, batch_size: int, model_yaml: dict[str, Any]
) -> None:
    """Say at load which settings leave nothing to overlap."""
    for doubt in config.doubts(batch_size):
        logger.warning("%s", doubt)
    section = model_yaml.get("handler")
    if isinstance(section, dict) and section.get("profile"):
        logger.warning(
            "handler.profile: true waits for the device after every stage call, which undoes the "
            "overlap. Remove it from model-config.yaml to serve"
        )


def refuse_async(handler: Any) -> None:
    """Refuse a handler whose methods would return before they have done anything.

    Raises:
        ConfigError: a stage or `handle` is `async`; it says which.
    """
    whole = (handler._micro_batch_takes_rows,) if is_one_stage(handler) else ()  # noqa: SLF001 (ours)
    for name in (*whole, *STAGES, "handle"):
        method = getattr(handler, name, None)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise ConfigError(
                f"{method.__qualname__} is async, and nobody would await it; write "
                f"'def {method.__name__}', and asyncio.run(...) in it around what must be awaited"
            )


def is_one_stage(handler: Any) -> bool:
    """Whether one call does all that a handler does, so that nothing passes between stages."""
    return hasattr(handler, "_micro_batch_takes_rows")


def splitting_of(handler: Any, *, one_row: bool) -> Splitting:
    """What can be known of a handler when it is loaded.

    Args:
        handler: whose class is read.
        one_row: whether it takes one row a call, as its source shows.
    """
    kind = type(handler)
    if is_one_stage(handler):
        method = getattr(handler, handler._micro_batch_takes_rows)  # noqa: SLF001  (ours)
        return Splitting(method.__qualname__, one_row=one_row)
    kinds = own_classes(kind) or [kind]
    fronts = [each for each in kinds if "Brought" in each.__bases__[0].__name__]
    name = next((each for each in kinds if each not in fronts), kinds[0]).__name__
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
