"""The lanes and device streams that a handler's settings ask for."""

from __future__ import annotations

import logging
import sys

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams, Observe
from micro_batch_handler.planning.cores import MOST_PER_CORE, lanes_for
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.torchserve.loading import LoadedHandler
from micro_batch_handler.torchserve.metrics.batch_metrics import BatchMetrics

__all__ = ["lanes_of", "share_interpreter", "streams_for"]

logger = logging.getLogger(__name__)


SWITCH_S = 0.001
"""How long a thread may keep the interpreter from others that want it; Python's own is 5 ms.

Inference asks for it again after each wait for its device, and preprocess in Python makes it wait
so long each time. More switches cost less than that."""


def share_interpreter() -> None:
    """Let threads of this process wait for one another at most `SWITCH_S`, if they wait longer."""
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


def lanes_of(loaded: LoadedHandler, cores: int) -> PerStage[int]:
    """The lanes of each stage on so many cores; the log says where they are fewer than asked for.

    `auto` is one lane where it is not known that the stage may run in several threads at once. With
    `share_model` it is one too: there workers run a stage at the same time, without such doubts.
    """
    config = loaded.config
    given = lanes_for(config.parallelism, cores, loaded.workers())
    lanes = {stage: given[stage] for stage in STAGES}
    for stage, why in loaded.obstacles.items():
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
        if wanted == AUTO and (why or config.share_model):
            if lanes[stage] > 1 and not (config.share_model or loaded.splitting.why_whole):
                logger.info(
                    "%s gets one lane instead of %d: %s. If its method may run in several threads "
                    "at once, say thread_safe = True in the class, or set "
                    "micro_batching.parallelism.%s",
                    *(stage, lanes[stage], why, stage),
                )
            lanes[stage] = 1
    return PerStage(**lanes)


def streams_for(
    config: MicroBatchingConfig,
    device: Accelerator | None,
    planner: Planner,
    metrics: BatchMetrics | None,
) -> Streams | NoStreams:
    """The streams of the handler's device; they tell planner and metrics what calls took."""
    told: list[Observe] = [planner.observe] if planner.tunes else []
    if metrics is not None:
        told.append(metrics.observe)

    def tell(stage: Stage, rows: int, seconds: float) -> None:
        for each in told:
            each(stage, rows, seconds)

    observe = tell if told else None
    if device is None or not config.device.streams:
        return NoStreams(observe, device)
    return Streams(
        device,
        copy_in=config.device.copy_in,
        copy_out=config.device.copy_out,
        pinned_bytes=config.device.pinned_bytes,
        observe=observe,
    )
