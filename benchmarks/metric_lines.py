"""What the metrics of one batch cost a worker: in one write, and a record each as TorchServe does.

python -m benchmarks.metric_lines

Processor time of this process, with TorchServe's own cache of metrics and logging, into a pipe.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from benchmarks.machine import describe
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.records import BatchRecord, CallRecord
from micro_batch_handler.pipeline.run import Outcomes
from micro_batch_handler.planning.plans import Plan
from micro_batch_handler.torchserve.metric_lines import MetricLines, metrics_logger
from micro_batch_handler.torchserve.metrics import METRICS, BatchMetrics
from tests.server.settings import ROOT

__all__ = ["main"]

ROWS = 32
LINES = 18
REPEATS = 2000
ROUNDS = 9

READER = [sys.executable, "-c", "import sys; all(sys.stdin.buffer)"]
"""In place of the frontend: reads line by line, and does nothing."""


def main() -> None:
    """Measure and print the best of some rounds, in microseconds."""
    cache = MetricsCacheYamlImpl(str(ROOT / "metrics.yaml"))
    cache.initialize_cache()
    cache.model_name = "model"
    cache.set_request_ids({row: f"c3a9a1f0-0000-4000-8000-{row:012}" for row in range(ROWS)})
    metrics = BatchMetrics(MetricLines(cache, METRICS, undeclared=False), PerStage.of(1), ROWS)

    def theirs() -> None:
        for _ in range(LINES):
            cache.add_counter("mbh_requests_total", 1, dimensions=[])

    metrics_logger.setLevel(logging.INFO)
    metrics_logger.propagate = False
    sys.stdout.write(f"{describe()}\nprocessor time of a batch of {ROWS}, µs\n")
    for size in (32, 8, 1):
        what = f"{LINES} lines in one write, calls of {size} rows"
        _tell(what, partial(metrics.add, _record(size)))
    _tell(f"{LINES} records by TorchServe's cache", theirs)


def _record(size: int) -> BatchRecord:
    calls = [
        CallRecord(stage, range(first, first + size), f"mbh-{stage}-0", 1.0, 1.1, 1.2, False)
        for stage in STAGES
        for first in range(0, ROWS, size)
    ]
    outcomes = Outcomes([None] * ROWS, {}, [], calls=calls)
    return BatchRecord(ROWS, Plan(PerStage.of(size)), 1.0, 1.5, outcomes)


def _tell(what: str, write: Callable[[], None]) -> None:
    with subprocess.Popen(READER, stdin=subprocess.PIPE, text=True) as reader:  # noqa: S603
        metrics_logger.handlers = [logging.StreamHandler(reader.stdin)]
        times_us = []
        for _ in range(ROUNDS):
            began_s = time.process_time()
            for _ in range(REPEATS):
                write()
            times_us.append((time.process_time() - began_s) / REPEATS * 1e6)
    sys.stdout.write(f"{min(times_us):8.1f}  {what}\n")


if __name__ == "__main__":
    main()
