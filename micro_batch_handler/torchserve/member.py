"""A worker that shares its model: it loads the handler without the model, and asks the host.

initialize            in the worker, with the CPU and a placeholder in place of the model
  meanwhile           the host loads the handler with the GPU and the model
functions             what the pipeline calls for each stage: its method here, or the host
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from ts.context import Context

from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.hosting.arena import Arena
from micro_batch_handler.hosting.client import HostClient
from micro_batch_handler.hosting.greeting import LoadError
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.hosting.meeting_place import MeetingPlace, StartedHost
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.stage import StageFunction
from micro_batch_handler.torchserve.host_job import HostJob
from micro_batch_handler.torchserve.hosted_call import HostedCall, HostedHandle, pass_on
from micro_batch_handler.torchserve.loading import LoadedHandler
from micro_batch_handler.torchserve.metrics.host_metrics import HostMetrics
from micro_batch_handler.torchserve.placeholder import (
    environment_with_gpus,
    hide_gpus,
    on_cpu,
    without_model,
)
from micro_batch_handler.torchserve.refusals import refuse_unshareable

__all__ = ["Member"]

logger = logging.getLogger(__name__)

LARGE_BYTES = 2**20

STILL_S = 10.0
"""How long the host may stand still on top of `stage_timeout`, by which it should have ended."""

CALLS = 4
"""Host calls of one member at a time. Each is a lane that waits."""

HOST_MODULE = "micro_batch_handler.torchserve.host.process"


class Member:
    """What a worker has of its host.

    Args:
        handler: of the worker, not initialized yet.
        context: of the load.
        config: the handler's settings.

    Raises:
        ConfigError: the host cannot be started here, or cannot import the handler; or the
            handler's stages need what another process has.
    """

    def __init__(self, handler: Any, context: Context, config: MicroBatchingConfig) -> None:
        refuse_unshareable(handler, config.hosted_stages)
        job = HostJob.of(handler, context)
        self._handler = handler
        self._hosted = config.hosted_stages
        self._job = job
        self._environment = {
            **environment_with_gpus(),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        arena = Arena(config.device.pinned_bytes)
        call_s = config.stage_timeout
        still_s = None if call_s is None else call_s + STILL_S
        self.link = HostLink(MeetingPlace(job.key), self._start, arena.shared, still_s=still_s)
        self.client = HostClient(self.link, arena, call_s=call_s)
        self.link.begin()

    def initialize(self, initialize: Callable[[Context], None], context: Context) -> None:
        """Initialize the worker's handler without the model, then wait for the host.

        Args:
            initialize: the handler's, or its hook for members.
            context: of the load.

        Raises:
            ConfigError: the model cannot be loaded here, or in the host.
            RuntimeError: from the handler, here or in the host.
            MemoryError: likewise.
        """
        # The worker computes on the CPU. Nothing in it may take memory of the GPU, or find one.
        hide_gpus()
        try:
            with without_model(self._handler):
                initialize(on_cpu(context))
            self._tell_weights()
            self.link.load()
        except LoadError as failed:
            self.close()
            error = failed.error
        except Exception as failed:
            self._give_up()
            error = failed
        except BaseException:
            self._give_up()
            raise
        else:
            logger.info("the model is shared: %r", self.link)
            return
        if not isinstance(error, (RuntimeError, MemoryError)):
            # Anything else would end the worker without an answer to the frontend.
            raise ConfigError(
                f"the model cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        raise error

    @staticmethod
    def lanes(wanted: PerStage[int]) -> PerStage[int]:
        """The lanes of a worker, whose inference waits for the host."""
        return replace(wanted, inference=CALLS)

    def metrics(self, context: Context) -> HostMetrics:
        """What counts the host's calls through this worker."""
        gpu = context.system_properties.get("gpu_id")
        return HostMetrics(self._hosted, gpu, self.link)

    def handle(self, until_s: Callable[[], float | None]) -> HostedHandle:
        """The handler's own `handle`, in the host; waits for that as long as `until_s` says."""
        return HostedHandle(self.client, until_s)

    def functions(
        self, loaded: LoadedHandler, ops: PayloadOps, readings: Readings
    ) -> dict[Stage, StageFunction]:
        """What the pipeline calls for the hosted stages.

        Args:
            loaded: what is known of the handler.
            ops: how payloads are joined.
            readings: knows whether what the stages return is rows.
        """
        config = loaded.config
        size = config.micro_batch_size.inference
        most_rows = 1 if loaded.splitting.one_row else loaded.batch_size
        sizes = (most_rows if size == AUTO else size, *(config.allowed_sizes or ())[-1:])
        hosted = HostedCall(self.client, ops, min(sizes), lambda: readings.may_cut)
        *before, last = config.hosted_stages
        return {**dict.fromkeys(before, pass_on), last: hosted}

    def close(self) -> None:
        """Leave the host."""
        self.client.close()

    def _give_up(self) -> None:
        """This worker cannot be a member. Others with the same files cannot either."""
        self.close()
        self.link.starter.abandon()

    def __repr__(self) -> str:
        return repr(self.link)

    def _start(self, place: MeetingPlace) -> StartedHost | None:
        # The name is for those who look at a list of processes.
        command = [sys.executable, "-m", HOST_MODULE, self._job.model_name]
        return place.start_host(command, pickle.dumps(self._job), self._environment)

    def _tell_weights(self) -> None:
        """Log, once, what weights this worker has loaded although the host has them."""
        if torch.cuda.is_initialized() and torch.cuda.memory_reserved():  # type: ignore[no-untyped-call]
            logger.warning(
                "%s.initialize has taken memory of the GPU in this worker, some 500 MB and what it "
                "has put there, although the process with the model works for it. Override "
                "initialize_member(context), which workers call instead, and stay on the CPU there",
                type(self._handler).__name__,
            )
        modules = [
            value for value in vars(self._handler).values() if isinstance(value, torch.nn.Module)
        ]
        tensors = {
            id(tensor): tensor  # the same module may have several names
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size_bytes >= LARGE_BYTES:
            logger.warning(
                "%s.initialize has loaded %.0f MB of weights into this worker, and the process "
                "with the model has them too. Override initialize_member(context), which workers "
                "call instead: load there what the other stages need",
                type(self._handler).__name__,
                size_bytes / 2**20,
            )
