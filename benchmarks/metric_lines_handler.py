"""The handler of `metric_lines`: writes the metrics of made-up batches, as often as it is asked."""

from __future__ import annotations

from typing import Any

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.pipeline.outcomes import BatchRecord, Outcomes
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.torchserve.metrics.batch_metrics import METRICS, BatchMetrics
from micro_batch_handler.torchserve.metrics.lines import MetricLines

ROWS = 32
LINES = 18
REQUEST_IDS = {row: f"c3a9a1f0-0000-4000-8000-{row:012}" for row in range(ROWS)}


class Handler(BaseHandler):  # type: ignore[misc]  # ts is untyped
    """`{"batches": 100, "size": 8}`; without a size TorchServe's own cache writes as many figures.

    With `"rare": true` each batch is written by itself.
    """

    def initialize(self, context: Context) -> None:
        """Load no model."""
        self.lines = MetricLines(context.metrics, METRICS, undeclared=False)
        self.metrics = BatchMetrics(self.lines, PerStage.of(1), ROWS)
        self.initialized = True

    def handle(self, data: list[Any], context: Context) -> list[str]:
        """Answer when all is written."""
        (row,) = data
        asked = row["body"]
        batches = asked["batches"]
        if "size" in asked:
            record = _record(asked["size"])
            for _ in range(batches):
                self.metrics.add(record)
                if asked.get("rare"):
                    self.lines.write()
        else:
            context.metrics.request_ids = REQUEST_IDS
            for _ in range(batches * LINES):
                context.metrics.add_time("HandlerTime", 1.5, dimensions=[])
        return ["written"]


def _record(size: int) -> BatchRecord:
    """A batch in micro-batches of so many rows in every stage."""
    calls = [
        CallRecord(stage, range(first, first + size), f"mbh-{stage}-0", 1.0, 1.1, 1.2, failed=False)
        for stage in STAGES
        for first in range(0, ROWS, size)
    ]
    outcomes = Outcomes([None] * ROWS, {}, [], calls=calls)
    return BatchRecord(ROWS, Plan.of(size), 1.0, 1.5, outcomes)
