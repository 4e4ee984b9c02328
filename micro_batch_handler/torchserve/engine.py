"""What one handler needs to run batches: its settings, its plan and its pipeline.

answers(data, context)   TorchServe's worker thread
  by_length              the requests in another order, if the settings say so
  deadlines              from the requests' headers
  pipeline.run           the user's three methods, in lanes, on some rows at a time
  faults                 a body and a status for each request that failed
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ts.context import Context
from ts.utils.util import PredictionException

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.accelerator import TorchAccelerator, accelerator_of
from micro_batch_handler.pipeline.isolation import Policy
from micro_batch_handler.pipeline.payloads import Payload, PayloadOps
from micro_batch_handler.pipeline.records import BatchRecord, Listener
from micro_batch_handler.pipeline.rows import Rows
from micro_batch_handler.pipeline.runner import Pipeline
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.pipeline.streams import NoStreams, Observe, Streams
from micro_batch_handler.pipeline.thread_state import ThreadState
from micro_batch_handler.pipeline.trace import Setup
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.cores import intra_op_threads, lanes_for, usable_cores
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.planning.plans import Plan
from micro_batch_handler.torchserve.by_length import by_length
from micro_batch_handler.torchserve.context import MicroBatchContext, answer_part, viewed_by
from micro_batch_handler.torchserve.deadlines import deadlines_s
from micro_batch_handler.torchserve.decode import decode_rows, decoder
from micro_batch_handler.torchserve.encode import encode, is_json
from micro_batch_handler.torchserve.faults import answer_failures, log_retried, raise_first
from micro_batch_handler.torchserve.first_row import one_row_at_a_time
from micro_batch_handler.torchserve.message_reader import read_buffered
from micro_batch_handler.torchserve.metrics import BatchMetrics, batch_metrics
from micro_batch_handler.torchserve.trace_file import TraceFile
from micro_batch_handler.torchserve.warm_up import warm_up
from micro_batch_handler.torchserve.worker_exit import end_at_next_batch, end_now

__all__ = ["Engine"]

logger = logging.getLogger(__name__)


class Engine:
    """Runs batches through the three methods of one handler.

    Args:
        handler: has the methods; looked at again for each call.
        ops: how its payloads are counted, cut and joined.
        context: of the load; has model-config.yaml and the batch size.

    Raises:
        ConfigError: a setting in model-config.yaml cannot work.
    """

    def __init__(self, handler: Any, ops: PayloadOps, context: Context) -> None:
        model_yaml = getattr(context, "model_yaml_config", None)
        config = MicroBatchingConfig.from_model_yaml(model_yaml)
        self._config, ops = one_row_at_a_time(handler, config, ops)
        batch_size = context.system_properties.get("batch_size") or 1
        cores = usable_cores()
        lanes = lanes_for(self._config.parallelism, cores)
        self._planner = Planner(self._config, batch_size, lanes)
        metrics = batch_metrics(self._config.metrics, context, lanes, batch_size)
        self._clock = Clock()
        self.listeners: list[Listener] = [] if metrics is None else [metrics.add]
        """Told of every batch before its answers leave."""
        self.setup = Setup(context.model_name, lanes, batch_size, cores)
        """What batches run with."""
        self._ends = False
        device = accelerator_of(getattr(handler, "device", None))
        self._pipeline = Pipeline(
            {stage: _stage_function(handler, stage) for stage in STAGES},
            lanes,
            ops=ops,
            lane_setup=_lane_setup(self._config, lanes, cores, device),
            policy=Policy(self._config.on_error == "isolate", deliberate=(PredictionException,)),
            stage_timeout_s=self._config.stage_timeout,
            clock=self._clock,
            streams=_streams(self._config, device, _observe(self._planner, metrics)),
            allowed_sizes=self._config.allowed_sizes or (),
            planner=self._planner,
        )
        try:
            warm_up(handler, self._pipeline, self._config.allowed_sizes or (), context)
        except BaseException:
            self.close()
            raise
        if metrics is not None:
            metrics.start()
        if self._config.buffered_reads:
            read_buffered()
        if self._config.trace_file:
            path, batches = Path(self._config.trace_file), self._config.trace_batches
            self.listeners.append(TraceFile(path, batches, self.setup, self.listeners.remove))
        _warn_if_serial(self._config, batch_size, model_yaml or {})
        logger.info("micro-batching %s, lanes %s", self._config.micro_batch_size, lanes)

    def close(self) -> None:
        """End the lanes."""
        self._pipeline.close()

    def decoded(self, data: list[Any], context: Context) -> list[Any]:
        """The rows for a handler that knows no micro-batches: what TorchServe would have made."""
        return decode_rows(data, context) if self._config.decode_input_request else data

    def answers(self, data: list[Any], context: Context, *, encoded: bool) -> list[Any]:
        """The answers of a batch, one for each row; statuses and headers are set in `context`.

        Args:
            data: one row for each request.
            context: the batch's.
            encoded: whether to give the answers as TorchServe would send them, because nobody
                reads them before it does.

        Raises:
            BaseException: with `on_error: fail_batch`, what the first failed stage call raised.
        """
        if self._ends:
            end_now()
        plan = self._planner.plan(len(data))
        if not self._config.sort_by_length or plan.fits(len(data)):
            return self._run(data, context, plan=plan, encoded=encoded)
        run = partial(self._run, plan=plan, encoded=encoded)
        answers = answer_part(run, data, context, by_length(data))
        return [answers[index] for index in range(len(data))]

    def _run(self, data: list[Any], context: Context, *, plan: Plan, encoded: bool) -> list[Any]:
        deadlines = deadlines_s(
            context, len(data), self._config.deadline_header, self._clock.now_s()
        )
        decode = decoder(context, len(data)) if self._config.decode_input_request else None
        began_s = self._clock.now_s()
        outcomes = self._pipeline.run(Rows(data, decode), plan, (context, encoded), deadlines)
        record = BatchRecord(len(data), plan, began_s, self._clock.now_s(), outcomes)
        self._learn(record)
        for listener in tuple(self.listeners):  # they may leave
            listener(record)
        if outcomes.fatal:
            self._ends = end_at_next_batch(context)
        log_retried(outcomes, context)
        if not outcomes.failures:
            return outcomes.answers
        if self._config.on_error == "fail_batch":
            raise_first(outcomes)
        return answer_failures(outcomes, context)

    def _learn(self, record: BatchRecord) -> None:
        outcomes = record.outcomes
        if not outcomes.failures:
            if not outcomes.retried:
                self._planner.finished(record.rows, record.plan, record.ended_s - record.began_s)
            return
        errors = [failure.error for failure in outcomes.failures.values()]
        if self._planner.tunes and any(isinstance(error, PayloadError) for error in errors):
            self._planner.keep_together()


def _lane_setup(
    config: MicroBatchingConfig,
    lanes: PerStage[int],
    cores: int,
    device: TorchAccelerator | None,
) -> Callable[[Stage], None]:
    """What each lane begins with; sets the threads of this one, too, where small batches run."""
    state = ThreadState.capture(device.device.type if device else None)
    if config.intra_op_threads == AUTO:
        # A handler that has asked for fewer gets fewer.
        most = min(torch.get_num_threads(), cores)
        share = intra_op_threads(lanes, cores)
        threads = PerStage(*(min(share[stage], most) for stage in STAGES))
        torch.set_num_threads(most)
    else:
        threads = PerStage.of(config.intra_op_threads)
        torch.set_num_threads(config.intra_op_threads)
    logger.info("threads of PyTorch in each lane %s, %d cores", threads, cores)

    def setup(stage: Stage) -> None:
        state.apply()
        # Here, since it counts for the thread that says it.
        torch.set_num_threads(threads[stage])

    return setup


def _observe(planner: Planner, metrics: BatchMetrics | None) -> Observe | None:
    """Who is told how long calls take."""
    if metrics is None:
        return planner.observe if planner.tunes else None
    if not planner.tunes:
        return metrics.observe

    def both(stage: Stage, rows: int, seconds: float) -> None:
        planner.observe(stage, rows, seconds)
        metrics.observe(stage, rows, seconds)

    return both


def _streams(
    config: MicroBatchingConfig, device: TorchAccelerator | None, observe: Observe | None
) -> Streams | NoStreams:
    if device is None or not config.cuda_streams:
        return NoStreams(observe)
    return Streams(
        device,
        copy_in=config.copy_in,
        copy_out=config.copy_out,
        pinned_bytes=config.pinned_bytes,
        observe=observe,
    )


def _stage_function(handler: Any, stage: Stage) -> StageFunction:
    def call(
        batch: tuple[Context, bool], indices: Sequence[int], payload: Payload
    ) -> tuple[Payload, Keep]:
        batch_context, encoded = batch
        view = MicroBatchContext(batch_context, indices)
        with viewed_by(handler, view):
            # Looked up at each call, since handlers may replace a stage on the instance.
            result = getattr(handler, stage)(payload)
        if encoded and stage == STAGES[-1] and isinstance(result, list):
            view.answers_json([at for at, answer in enumerate(result) if is_json(answer)])
            result = [encode(answer) for answer in result]
        return result, view.keep

    return call


def _warn_if_serial(
    config: MicroBatchingConfig, batch_size: int, model_yaml: dict[str, Any]
) -> None:
    """Say at load which settings leave nothing to overlap."""
    sizes = [config.micro_batch_size[stage] for stage in STAGES]
    fits = all(size != AUTO and size >= batch_size for size in sizes)
    if batch_size == 1:
        logger.warning("batchSize is 1: nothing can overlap. Set batchSize in model-config.yaml")
    elif fits:
        logger.warning(
            "micro_batching.micro_batch_size %s holds a whole batch of %d in every stage: nothing "
            "can overlap. Set it below batchSize",
            config.micro_batch_size,
            batch_size,
        )
    section = model_yaml.get("handler")
    if isinstance(section, dict) and section.get("profile"):
        logger.warning(
            "handler.profile: true waits for the device after every stage call, which undoes the "
            "overlap. Remove it from model-config.yaml to serve"
        )
