"""The metrics of each batch: where its time went, how full it was, what failed.

    work     calls of a stage
    wait     micro-batches that were ready and had no lane, in the stage's queue
    idle     lanes without a call, while the batch was under way

Where the model host runs a stage, its lanes here only wait for answers. Then they count as one:

    work     this batch's part of the host calls, by its rows
    wait     the rest of the calls, and the queue before them
    idle     no call, while the batch was under way

Where a sum makes sense, a metric is a counter. The frontend keeps counters, so that they add up
over all workers of a model and outlive a worker. A batch adds the same number of lines, however
many micro-batches it has, and under load many batches share a write; see `EVERY_S`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import product

from ts.context import Context
from ts.metrics.metric_cache_abstract import MetricCacheAbstract

from micro_batch_handler.config import AUTO, STAGES, Metrics, PerStage, Stage
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.torchserve.metrics.host_metrics import HOST_METRICS, HostMetrics
from micro_batch_handler.torchserve.metrics.lines import Metric, MetricLines, Sample
from micro_batch_handler.torchserve.metrics.reasons import REASONS, reason_of
from micro_batch_handler.torchserve.metrics.throttle import Throttle

__all__ = ["METRICS", "BatchMetrics", "batch_metrics"]

logger = logging.getLogger(__name__)

REQUESTS = Metric("mbh_requests_total", "counter", "Count")
FILL = Metric("mbh_batch_fill_ratio", "histogram", "Ratio")
"""Requests of a batch by `batchSize`."""
DURATION = Metric("mbh_batch_duration_seconds", "histogram", "Seconds", ("Plan",))
"""From the cut to the last outcome; `Plan` is `split`, or `whole` if every stage had one call."""
SIZE = Metric("mbh_micro_batch_size", "gauge", "Count", ("Stage",))
"""Rows of the largest micro-batch that was planned for the latest batch."""
CALLS = Metric("mbh_stage_calls_total", "counter", "Count", ("Stage",))
WORK = Metric("mbh_stage_work_seconds_total", "counter", "Seconds", ("Stage",))
"""For a call on a GPU, the time of its work there if that is longer than the call itself."""
WAIT = Metric("mbh_stage_wait_seconds_total", "counter", "Seconds", ("Stage",))
IDLE = Metric("mbh_stage_idle_seconds_total", "counter", "Seconds", ("Stage",))
"""Lanes times the batch's duration, minus the work: work / (work + idle) is how busy they are."""
FAILED = Metric("mbh_failed_requests_total", "counter", "Count", ("Stage", "Reason"))
RETRIED = Metric("mbh_retried_calls_total", "counter", "Count", ("Stage", "Reason"))
"""Calls of the plan that failed and were made again in parts."""

# In the order in which they are written. Requests come last: whoever sees them counted has seen all
# else that their batch adds. A gauge comes first: if the handler prints meanwhile, the first line
# may end up behind its text and be lost, and a gauge is written again.
METRICS = (
    *(SIZE, FILL, DURATION, CALLS, WORK, WAIT, IDLE),
    *HOST_METRICS,
    *(FAILED, RETRIED, REQUESTS),
)

EVERY_S = 0.25
"""From one write to the next under load. Prometheus asks every few seconds. A worker that is killed
loses what its last quarter of a second added."""


class BatchMetrics:
    """The metrics of one handler.

    Args:
        lines: takes the samples.
        lanes: of each stage.
        batch_size: the most requests of a batch.
        throttle: makes what keeps writes `EVERY_S` apart.
        host: of the model host, if there is one.
    """

    def __init__(
        self,
        lines: MetricLines,
        lanes: PerStage[int],
        batch_size: int,
        throttle: Callable[[Callable[[], None], float], Throttle] = Throttle,
        host: HostMetrics | None = None,
    ) -> None:
        self._lines = lines
        self._lanes = lanes
        self._batch_size = batch_size
        self._host = host
        self._hosted = frozenset[Stage]() if host is None else host.stages
        self._observed: deque[tuple[Stage, float]] = deque()
        self._soon = throttle(lines.write, EVERY_S)

    def start(self) -> None:
        """Begin to count. Counters are written as 0, so that dashboards see them rise."""
        self._observed.clear()  # of calls that warmed up, which belong to no request
        by_stage = product((CALLS, WORK, WAIT, IDLE), product(STAGES))
        by_reason = product((FAILED, RETRIED), product(STAGES, REASONS))
        of_host = () if self._host is None else self._host.counters()
        counters = [*by_stage, *of_host, *by_reason, (REQUESTS, ())]
        self._lines.add((metric, 0, dimensions) for metric, dimensions in counters)
        self._lines.write()

    def observe(self, stage: Stage, _rows: int, seconds: float) -> None:
        """A call succeeded and took so long, its work on the device included; from any thread."""
        if stage not in self._hosted:
            self._observed.append((stage, seconds))

    def add(self, record: BatchRecord) -> None:
        """Count a batch. TorchServe gets the samples now or soon."""
        self._lines.add(self._samples(record))
        if record.outcomes.fatal:  # the worker is about to end
            self._lines.write()
        else:
            self._soon.ask()

    def _samples(self, record: BatchRecord) -> Iterator[Sample]:
        outcomes, plan = record.outcomes, record.plan
        lasted_s = record.ended_s - record.began_s
        yield FILL, record.rows / self._batch_size, ()
        yield DURATION, lasted_s, ("whole" if plan.fits(record.rows) else "split",)
        calls, work_s, wait_s = self._totals(record)
        asked_s = 0.0
        if self._host is not None:
            host = self._host.totals(outcomes.calls)
            asked_s = host.asked_s
            for stage in self._hosted:
                work_s[stage] += host.work_s[stage]
                wait_s[stage] += host.rest_s[stage]
            yield from host.samples
        for stage in STAGES:
            yield SIZE, min(plan.size(stage), record.rows), (stage,)
            yield CALLS, calls[stage], (stage,)
            yield WORK, work_s[stage], (stage,)
            yield WAIT, wait_s[stage], (stage,)
            hosted = stage in self._hosted
            idle_s = lasted_s - asked_s if hosted else self._lanes[stage] * lasted_s - work_s[stage]
            yield IDLE, max(0.0, idle_s), (stage,)
        for metric, failures in (
            (FAILED, outcomes.failures.values()),
            (RETRIED, outcomes.retried),
        ):
            causes = Counter((failure.stage, reason_of(failure.error)) for failure in failures)
            for cause, times in causes.items():
                yield metric, times, cause
        yield REQUESTS, record.rows, ()

    def _totals(
        self, record: BatchRecord
    ) -> tuple[Counter[Stage], dict[Stage, float], dict[Stage, float]]:
        """Calls, seconds of work and seconds in the queue, for each stage.

        A call that was given up counts up to that moment, and in a later batch if it returns.
        """
        calls: Counter[Stage] = Counter()
        work_s, wait_s = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
        for call in record.outcomes.calls:
            calls[call.stage] += 1
            wait_s[call.stage] += max(0.0, call.began_s - call.ready_s)
            # Of the others, only the good ones are observed.
            if call.failed and call.stage not in self._hosted:
                work_s[call.stage] += call.ended_s - call.began_s
        for _ in range(len(self._observed)):
            stage, seconds = self._observed.popleft()
            work_s[stage] += seconds
        return calls, work_s, wait_s


def batch_metrics(
    wanted: Metrics,
    context: Context,
    lanes: PerStage[int],
    batch_size: int,
    host: HostMetrics | None = None,
) -> BatchMetrics | None:
    """The metrics of a handler; None if the setting or metrics.yaml does not want any."""
    cache = getattr(context, "metrics", None)
    if not wanted or not isinstance(cache, MetricCacheAbstract):
        return None
    lines = MetricLines(cache, METRICS, undeclared=wanted != AUTO)
    if not lines.declared:
        logger.info(
            "no metrics of micro-batching, since the server's metrics.yaml declares none; see "
            "docs/metrics.md of micro_batch_handler"
        )
        return None
    return BatchMetrics(lines, lanes, batch_size, host=host)
