"""What one handler needs to run batches: its settings, its plan and its pipeline.

answers(data, context)   TorchServe's worker thread
  sizing.plan            whole, or how it is cut
  by_length              the requests in another order, if the settings say so
  pipeline.run           the user's three methods, in lanes, on some rows at a time;
                         once more and whole, if the handler cannot be cut
  splitting, sizing      learn from the batch; metrics and traces are told of it
  fault_log              what failed, in the worker's log
  answer_failures        a body and a status for each request that failed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ts.context import Context
from ts.utils.util import PredictionException

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import SplitError
from micro_batch_handler.pipeline.device.accelerator import accelerator_of
from micro_batch_handler.pipeline.outcomes import BatchRecord, Listener, Outcomes
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.recovery import Policy
from micro_batch_handler.pipeline.requests import Requests
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.cores import usable_cores
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.torchserve.call_threads import CallThreads
from micro_batch_handler.torchserve.context import answer_part
from micro_batch_handler.torchserve.deadlines import deadlines_s
from micro_batch_handler.torchserve.fault_log import FaultLog
from micro_batch_handler.torchserve.faults import answer_failures, raise_first
from micro_batch_handler.torchserve.loading import load, patience_s, report_settings
from micro_batch_handler.torchserve.metrics.batch_metrics import batch_metrics
from micro_batch_handler.torchserve.resources import lanes_of, streams_for
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.sharing import member_of
from micro_batch_handler.torchserve.sizing import Sizing, by_length
from micro_batch_handler.torchserve.stage_call import StageCall
from micro_batch_handler.torchserve.trace_file import trace_to_file
from micro_batch_handler.torchserve.warm_up import warm_up
from micro_batch_handler.torchserve.wire.decode import decode_rows, decoder
from micro_batch_handler.torchserve.wire.reader import read_buffered
from micro_batch_handler.torchserve.worker_exit import end_at_next_batch, end_now
from micro_batch_handler.tracing.recording import Setup

__all__ = ["Engine"]


class Engine:
    """Runs batches through the three methods of one handler.

    Args:
        handler: has the methods; looked at again for each call.
        ops: how its payloads are counted, cut and joined.
        context: of the load; has model-config.yaml and the batch size.
        example_row: gives a request to warm the model with, if the handler has such a hook.

    Raises:
        ConfigError: a setting in model-config.yaml cannot work, or a stage is `async`.
    """

    def __init__(
        self,
        handler: Any,
        ops: PayloadOps,
        context: Context,
        example_row: Callable[[], Any] | None = None,
    ) -> None:
        loaded = load(handler, ops, context)
        self._config, self._splitting = loaded.config, loaded.splitting
        ops, batch_size = loaded.ops, loaded.batch_size
        member = member_of(handler, context)
        cores = usable_cores()
        lanes = self._splitting.lanes(lanes_of(loaded, cores))
        if member is not None:
            lanes = member.lanes(lanes)
        planner = Planner(self._config, batch_size, lanes)
        host = None if member is None else member.metrics(context)
        metrics = batch_metrics(self._config.metrics, context, lanes, batch_size, host)
        self._clock = Clock()
        self.fault_log = FaultLog(self._clock.now_s)
        self.listeners: list[Listener] = [] if metrics is None else [metrics.add]
        """Told of every batch before its answers leave."""
        to_share = cores if member is None else 1  # workers that share a model are many
        self._threads = CallThreads(self._config.intra_op_threads, lanes, to_share, loaded.workers)
        device = accelerator_of(getattr(handler, "device", None))
        self.setup = Setup(
            *(context.model_name, lanes, batch_size, cores, self._threads.now),
            on_device=device is not None,
            pads=self._config.allowed_sizes is not None,
        )
        """What batches run with."""
        self._ends = False
        # An engine with other settings need not find out anew what is known of the handler.
        known = vars(handler).setdefault("_micro_batch_known", {})
        self._sizing = Sizing(
            self._config, planner, self._splitting, ops, known, trusted=loaded.first_row
        )
        self._readings = self._sizing.readings
        self._member = member
        self.hosted_handle = None if member is None else member.handle(self._until_s)
        """The handler's own `handle`, where another process has the model; else None."""
        hosted = {} if member is None else member.functions(loaded, ops, self._readings)
        self._patience_s = patience_s(context, self._config.stage_timeout)
        self._pipeline = Pipeline(
            {**{each: StageCall(handler, each, self._threads) for each in STAGES}, **hosted},
            lanes,
            ops=ops,
            lane_setup=self._threads.lane_setup(device),
            policy=Policy(
                self._config.on_error == "isolate",
                deliberate=(PredictionException,),
                repeats=ServedBatch.repeats,
            ),
            stage_timeout_s=self._config.stage_timeout,
            clock=self._clock,
            streams=streams_for(self._config, device, planner, metrics),
            unbounded=tuple(hosted),
            allowed_sizes=() if hosted else self._config.allowed_sizes or (),
            readings=self._readings,
        )
        self.call_alone = self._pipeline.call_alone
        """Calls a function that calls stages by itself, while no batch is under way."""
        sizes = self._config.allowed_sizes or ()
        try:
            if member is None:
                warm_up(handler, example_row, self._pipeline, sizes, self._splitting, context)
        except BaseException:
            self.close()
            raise
        if metrics is not None:
            metrics.start()
        if self._config.buffered_reads:
            read_buffered()
        trace_to_file(self._config.trace, self.setup, self.listeners)
        report_settings(loaded, lanes)

    def close(self) -> None:
        """End the lanes."""
        self._pipeline.close()
        self.fault_log.close()

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
        self._threads.recount()
        plan, serial = self._sizing.plan(len(data), may_overlap=self._pipeline.may_overlap)
        answer = partial(self._answer_batch, plan=plan, serial=serial, encoded=encoded)
        if serial or not self._config.sort_by_length or plan.fits(len(data)):
            return answer(data, context)
        answers = answer_part(answer, data, context, by_length(data))
        return [answers[index] for index in range(len(data))]

    def _answer_batch(
        self,
        data: list[Any],
        context: Context,
        *,
        plan: Plan,
        serial: Sequence[range],
        encoded: bool,
    ) -> list[Any]:
        began_s = self._clock.now_s()
        had_no_rows = self._readings.rows is False
        split = not serial and not plan.fits(len(data))
        served = ServedBatch(context, self._splitting, encoded=encoded, split=split)
        until_s = self._until_s()
        served.until_s = until_s
        run = self._pipeline_run(data, context, until_s=until_s)
        outcomes = run(plan, served, serial=serial)
        if served.changes_state() or (split and self._is_spoiled(outcomes)):
            # Nothing of what was computed in parts may reach a client.
            served.forget()
            plan, serial = Plan.of(len(data)), self._splitting.whole(len(data))
            served = ServedBatch(context, self._splitting, encoded=encoded, split=False)
            served.until_s = until_s
            if outcomes.fatal:
                outcomes = outcomes.withheld()
            else:
                again = run(plan, served, serial=serial)
                outcomes = replace(again, calls=[*outcomes.calls, *again.calls])
            served.over, split = True, False
        record = BatchRecord(len(data), plan, began_s, self._clock.now_s(), outcomes)
        probe = bool(serial) and not self._splitting.why_whole
        unread = self._readings.rows is False and not had_no_rows
        self._splitting.learn(record, split=split, probe=probe, unread=unread)
        self._sizing.learn(record)
        for listener in tuple(self.listeners):  # they may leave
            listener(record)
        if outcomes.fatal or self._pipeline.has_lost(any_lane=self._splitting.shares_state):
            self._ends = end_at_next_batch(context)
        self.fault_log.retried(outcomes, context)
        if not outcomes.failures:
            return outcomes.answers
        if self._config.on_error == "fail_batch" and not served.streamed:
            raise_first(outcomes)
        self.fault_log.failed(outcomes.failures.values(), context)
        return answer_failures(outcomes, context)

    def _until_s(self) -> float | None:
        """When no call of a batch that begins now is made again, nor waited for a host."""
        alone = self._member is None
        return self._pipeline.limit_s() if alone else self._clock.now_s() + self._patience_s

    def _pipeline_run(
        self, data: list[Any], context: Context, until_s: float | None
    ) -> Callable[..., Outcomes]:
        """`Pipeline.run` for these requests, with their deadlines; a call decodes its own."""
        header, now_s = self._config.deadline_header, self._clock.now_s()
        deadlines = deadlines_s(context, len(data), header, now_s)
        decode = decoder(context, len(data)) if self._config.decode_input_request else None
        requests = Requests(data, decode)
        return partial(self._pipeline.run, requests, deadlines_s=deadlines, until_s=until_s)

    def __repr__(self) -> str:
        return f"<Engine {self._pipeline}, {self._member or 'no host'}>"

    def _is_spoiled(self, outcomes: Outcomes) -> bool:
        """Whether a batch that was cut must not have been."""
        return (
            self._readings.take_suspicion()
            or bool(self._splitting.why_whole)
            or any(isinstance(each.error, SplitError) for each in outcomes.failures.values())
        )
