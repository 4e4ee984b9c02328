"""The process of the model host, which a member starts with a lock and a listening socket."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from pathlib import Path

import psutil
import torch
import ts
from ts.context import Context
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from micro_batch_handler.config import MicroBatchingConfig
from micro_batch_handler.hosting.host import Host
from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.meeting_place import MeetingPlace
from micro_batch_handler.pipeline.device.accelerator import accelerator_of
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.thread_state import ThreadState, use_threads
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.cores import usable_cores
from micro_batch_handler.torchserve.compiling import compile_beside
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.hooks import payload_ops
from micro_batch_handler.torchserve.host.output import say_output
from micro_batch_handler.torchserve.host.stage import HostHandle, HostStage
from micro_batch_handler.torchserve.host.warm import example, example_row, warm_up
from micro_batch_handler.torchserve.host_job import HostJob
from micro_batch_handler.torchserve.resources import share_interpreter
from micro_batch_handler.torchserve.routed import route
from micro_batch_handler.torchserve.sharing import in_host

__all__ = ["main"]

logger = logging.getLogger("micro_batch_handler.torchserve.host.process")

DEFAULT_STARTUP_TIMEOUT_S = 120
"""TorchServe's own `startupTimeout`, after which it ends a worker that still loads."""

DRAIN_S = 0.1
"""For what was written last to reach a member."""


def main() -> None:
    """Load the model, answer the members, end with the last of them or with the frontend."""
    in_host(now=True)
    lock, listener = (int(each) for each in sys.argv[-2:])
    for each in (lock, listener):
        os.set_inheritable(each, False)  # a handler's own processes must not keep the lock
    job: HostJob = pickle.load(sys.stdin.buffer)  # noqa: S301  (from the member that starts it)
    sys.path[:] = job.search_path
    share_interpreter()
    host = Host(socket.socket(fileno=listener))
    host.let_go_in_children(lock)
    say_output(host)
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for a whole process group; the frontend decides
    signal.signal(signal.SIGTERM, lambda *_: host.end("it was told to"))
    host.start()
    watch = threading.Thread(target=_watch, args=(host, job, lock), name="mbh-watch", daemon=True)
    watch.start()
    try:
        _serve(host, job)
    except BaseException as error:
        host.fail(error)
    watch.join()


def _watch(host: Host, job: HostJob, lock: int) -> None:
    """End the process when it is time to."""
    place = MeetingPlace(job.key)

    def why_not_live() -> str:
        if not _lives(job.frontend):
            return "the server has ended"
        return "" if place.is_held_by(lock) else "its lock was removed, and members find it no more"

    try:
        config = MicroBatchingConfig.from_model_yaml(job.model_yaml)
        startup_s = job.model_yaml.get("startupTimeout", DEFAULT_STARTUP_TIMEOUT_S)
        host.watch(why_not_live, config.stage_timeout, startup_s)
        logger.info("the process with the model ends: %s", host.why_over)
        if place.is_held_by(lock):
            place.remove()
    finally:
        sys.stdout.flush()
        threading.Event().wait(DRAIN_S)
        # Threads may hang inside PyTorch, and freeing the memory of a lost device aborts.
        os._exit(1)


def _serve(host: Host, job: HostJob) -> None:
    """Load the handler, then answer questions as long as the host lives."""
    config = MicroBatchingConfig.from_model_yaml(job.model_yaml)
    context = _context(job)
    route(context)
    kind = getattr(importlib.import_module(job.module), job.class_name)
    handler = kind()
    handler.initialize(context)
    handler.context = context
    compile_beside(handler, config.allowed_sizes or (), job.model_yaml)
    ops = payload_ops(handler, MicroBatchMixin)
    device = accelerator_of(getattr(handler, "device", None))
    streams: Streams | NoStreams = NoStreams(None, device)
    if device is not None and config.device.streams:
        streams = Streams(
            device,
            # Of what hosted preprocess returns; the rows of a question are copied when they come.
            copy_in=config.device.copy_in and config.hosted_stages[0] == "preprocess",
            copy_out=True,
            pinned_bytes=config.device.pinned_bytes,
        )
    clock = Clock()
    state = ThreadState.capture(device.device.type if device else None)
    threads = config.intra_op_threads.inference
    torch_threads = min(torch.get_num_threads(), usable_cores()) if threads == "auto" else threads
    sizes = config.allowed_sizes or ()
    row = example_row(handler) if sizes else None

    def setup() -> None:
        state.apply()
        use_threads(torch_threads)

    def setup_inference() -> None:
        setup()
        if row is not None:
            copies = device if config.device.copy_in else None
            one = example(handler, row, copies)
            streams.finish()
            warm_up(stages["inference"], one, sizes, ops, streams)
            streams.finish()

    stages = {stage: HostStage(handler, stage, context) for stage in config.hosted_stages}
    lanes: list[HostLane] = []
    for stage in reversed(config.hosted_stages):
        lanes.insert(
            0,
            HostLane(
                stage,
                stages[stage],
                ops,
                streams,
                clock,
                allowed_sizes=sizes if stage == "inference" else (),
                then=lanes[0] if lanes else None,
                handle=HostHandle(handler, context) if stage == "inference" else None,
                lost=lambda: host.end("its device is lost, or one of its threads"),
                setup=setup_inference if stage == "inference" else setup,
            ),
        )
    host.serve(
        lanes,
        ops,
        streams,
        device,
        os.getpid(),
        copy_in=config.device.copy_in and config.hosted_stages[0] == "inference",
    )


def _context(job: HostJob) -> Context:
    """The context that the handler is initialized with, as TorchServe's worker makes it."""
    found = job.metrics_file or str(Path(ts.__file__).parent / "configs" / "metrics.yaml")
    metrics = MetricsCacheYamlImpl(found)
    metrics.initialize_cache()
    metrics.model_name = job.model_name
    properties = job.properties
    context = Context(
        job.model_name,
        properties["model_dir"],
        job.manifest,
        properties.get("batch_size"),
        properties.get("gpu_id"),
        properties.get("server_version"),
        properties.get("limit_max_image_pixels"),
        metrics=metrics,
        model_yaml_config=dict(job.model_yaml),
    )
    context.system_properties.update(properties)
    return context


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
    except OSError:  # no descriptors are left to look with
        return True


if __name__ == "__main__":
    main()
