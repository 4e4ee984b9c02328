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
from typing import Any

import torch
from ts.context import Context

from micro_batch_handler.config import AUTO, MicroBatchingConfig, Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.hosting.arena import Arena
from micro_batch_handler.hosting.client import HostClient
from micro_batch_handler.hosting.host_link import HostLink, LoadError
from micro_batch_handler.hosting.meeting_place import MeetingPlace, StartedHost
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.stage import StageFunction
from micro_batch_handler.torchserve.sharing.host_job import HostJob
from micro_batch_handler.torchserve.sharing.hosted_call import HostedCall, pass_on
from micro_batch_handler.torchserve.sharing.placeholder import (
    environment_with_gpus,
    hide_gpus,
    on_cpu,
    without_model,
)
from micro_batch_handler.torchserve.sharing.refusals import refuse_unshareable

__all__ = ["CALLS", "Member", "in_host", "leave_host", "member_of"]

logger = logging.getLogger(__name__)

LARGE_BYTES = 2**20

STILL_S = 10.0
"""How long the host may stand still on top of `stage_timeout`, by which it should have ended."""

CALLS = 4
"""Host calls of one member at a time. Each is a thread that waits."""

MEMBER = "_micro_batch_member"

HOST_MODULE = "micro_batch_handler.torchserve.sharing.host_process"

_host = False


def in_host(*, now: bool = False) -> bool:
    """Whether this process is the model host; `now` makes it one."""
    global _host  # noqa: PLW0603  (a process is one or the other)
    _host = _host or now
    return _host


def member_of(handler: Any, context: Context) -> Member | None:
    """What a worker has of its host, which is started now if need be; None without `share_model`.

    Raises:
        ConfigError: a setting cannot work.
    """
    config = MicroBatchingConfig.from_model_yaml(getattr(context, "model_yaml_config", None))
    if not config.share_model:
        return None
    member: Member | None = vars(handler).get(MEMBER)
    if member is None:
        member = vars(handler)[MEMBER] = Member(handler, context, config)
    return member


def leave_host(handler: Any) -> None:
    """Close what a worker has of its host, if it has anything."""
    member: Member | None = vars(handler).pop(MEMBER, None)
    if member is not None:
        member.close()


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
            self.close()
            error = failed
        except BaseException:
            self.close()
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

    def functions(
        self,
        config: MicroBatchingConfig,
        ops: PayloadOps,
        readings: Readings,
        most_rows: int,
    ) -> dict[Stage, StageFunction]:
        """What the pipeline calls for the hosted stages.

        Args:
            config: the settings in force.
            ops: how payloads are joined.
            readings: knows whether what the stages return is rows.
            most_rows: of a batch.
        """
        size = config.micro_batch_size.inference
        sizes = (most_rows if size == AUTO else size, *(config.allowed_sizes or ())[-1:])
        hosted = HostedCall(self.client, ops, min(sizes), lambda: readings.may_cut)
        *before, last = config.hosted_stages
        return {**dict.fromkeys(before, pass_on), last: hosted}

    def close(self) -> None:
        """Leave the host."""
        self.client.close()

    def _start(self, place: MeetingPlace) -> StartedHost | None:
        # The name is for those who look at a list of processes.
        command = [sys.executable, "-m", HOST_MODULE, self._job.model_name]
        return place.start_host(command, pickle.dumps(self._job), self._environment)

    def _tell_weights(self) -> None:
        """Log, once, what weights this worker has loaded although the host has them."""
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
