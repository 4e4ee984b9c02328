"""How each batch is cut: into which sizes, and in which order of its requests.

The sizes are the planner's, as far as handler and payloads allow.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
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

__all__ = ["Sizing", "by_length", "length"]

logger = logging.getLogger(__name__)


class Sizing:
    """Chooses the plan of each batch, and learns from how it went.

    The planner knows which sizes are fastest, `splitting` whether batches may be cut at all.
    `known` is what an earlier engine of the same handler learned of its payloads, and is added to
    here. If they are `trusted`, they are taken for rows unseen.
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

        `may_overlap` says whether there is memory for calls beside each other.
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
        if not self._warned:
            self._warned = True
            logger.warning(
                "all stages get micro-batches of the same size, since %s. Override "
                "cut_payload(payload, start, stop) and join_payloads(payloads) in the handler to "
                "have the sizes that are set",
                self.readings.why_not,
            )
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


def by_length(data: Sequence[Any]) -> list[int]:
    """The indices of a batch's rows, the shortest row first; equal ones as they came.

    A model that pads its rows computes as if each were as long as the longest of the call. In the
    order of arrival nearly every micro-batch has a long row. In the order of length most have none.
    The method is that of sentence-transformers (https://sbert.net, `SentenceTransformer.encode`)
    and of Hugging Face's Trainer (`group_by_length`).
    """
    lengths = [length(row) for row in data]
    return sorted(range(len(data)), key=lengths.__getitem__)


def length(row: Any) -> int:
    """The length of a row: bytes of its bodies, or characters and numbers in decoded ones.

    Among bodies of one kind, the larger one is longer.
    """
    found = 0
    todo = [row]  # no recursion, since a body may be nested deeply
    while todo:
        value = todo.pop()
        if isinstance(value, (bytes, bytearray, str)):
            found += len(value)
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
        else:
            found += 1
    return found
