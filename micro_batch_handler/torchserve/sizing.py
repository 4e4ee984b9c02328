"""The sizes that each batch is cut into: the planner's, as far as handler and payloads allow."""

from __future__ import annotations

import logging
import sys
from dataclasses import astuple
from typing import Any

from micro_batch_handler.config import AUTO, MicroBatchingConfig
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.torchserve.splitting import Splitting

__all__ = ["Sizing"]

logger = logging.getLogger(__name__)


class Sizing:
    """Chooses the plan of each batch, and learns from how it went.

    Args:
        config: the handler's settings.
        planner: knows which sizes are fastest.
        splitting: knows whether batches may be cut.
        ops: how the handler's payloads are counted, cut and joined.
        known: what an earlier engine of the same handler learned of its payloads; added to here.
        trusted: whether its payloads are taken for rows unseen.
    """

    def __init__(
        self,
        config: MicroBatchingConfig,
        planner: Planner,
        splitting: Splitting,
        ops: PayloadOps,
        known: dict[str, Any],
        *,
        trusted: bool,
    ) -> None:
        self._planner = planner
        self._splitting = splitting
        self._known = known
        self._warned = False
        sizes = [size for size in astuple(config.micro_batch_size) if size != AUTO]
        self.readings = Readings(
            ops, min(sizes, default=sys.maxsize), self._payloads_known, trusted=trusted
        )
        if known:
            self.readings.know(**known)
            planner.payloads(known["rows"])

    def plan(self, rows: int, *, may_overlap: bool) -> tuple[Plan, list[range]]:
        """The plan of a batch; with it, if the batch must stay whole, the rows of each call.

        Args:
            rows: of the batch.
            may_overlap: whether there is memory for calls beside each other.
        """
        serial = self._splitting.groups(rows)
        if not serial and not may_overlap:
            serial = self._splitting.whole(rows)
        if serial:
            return Plan.of(rows), serial
        if self._splitting.one_row:
            return Plan.of(1), []
        plan = self._planner.plan(rows)
        if not plan.regroups(rows) or self.readings.may_cut:
            return plan, []
        if self.readings.rows is None:
            return Plan.of(rows), self.readings.probe(rows)
        self._warn_of_one_size()
        return Plan.of(plan.inference), []

    def learn(self, record: BatchRecord) -> None:
        """A batch has ended."""
        outcomes = record.outcomes
        if outcomes.rescued:
            return
        if not outcomes.failures:
            if not outcomes.retried:
                self._planner.finished(record.rows, record.plan, record.ended_s - record.began_s)
            return
        errors = [failure.error for failure in outcomes.failures.values()]
        if self._planner.tunes and any(isinstance(error, PayloadError) for error in errors):
            self._planner.keep_together()

    def _payloads_known(self, rows: bool) -> None:
        self._known.update(rows=rows, why_not=self.readings.why_not)
        self._planner.payloads(rows)

    def _warn_of_one_size(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "all stages get micro-batches of the same size, since %s. Override "
                "cut_payload(payload, start, stop) and join_payloads(payloads) in the handler to "
                "have the sizes that are set",
                self.readings.why_not,
            )
