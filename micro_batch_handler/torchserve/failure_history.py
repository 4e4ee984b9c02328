"""What the failures of past batches show about cutting a handler's batches.

    rows fail in lanes and pass in the worker's thread          it works in one thread only
    cut batches fail, and a whole one passes                    the same, if no call is repeated
    calls return a wrong number of rows, and all is well uncut  its payloads are no rows
    calls on several rows fail, and each row alone passes       it stands one row a call

After the last, calls get one row each. After the others, batches stay whole.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from micro_batch_handler.config import STAGES
from micro_batch_handler.pipeline.device.device_errors import is_out_of_memory
from micro_batch_handler.pipeline.outcomes import BatchRecord, Failure, Outcomes
from micro_batch_handler.pipeline.recovery import is_misread

__all__ = ["FailureHistory"]

THREAD_BOUND = (
    "%d requests failed in its lanes and were answered in the worker's thread, where it was "
    "loaded. What belongs to one thread (an event loop, a connection, a device's context) must be "
    "made in the thread that uses it"
)

RESCUED_BATCHES = 3
"""Batches with rows that failed in lanes and passed in the worker's thread, before batches stay
whole: a service that the handler calls may be out of order for a while."""

RESCUED_SHARE = 0.05
"""Of all rows since the first of these batches. If they are rarer, they failed by chance."""

ONE_ROW_BATCHES = 2
"""Batches in a row in which every call on several rows fails and each row alone passes."""

FAILED_BATCHES = 3
"""Batches in a row that were cut and failed, with calls not repeated, before one is not cut."""


class FailureHistory:
    """Learns from the batches of one handler."""

    def __init__(self, *, one_row: bool = False) -> None:
        self.one_row = one_row
        """Whether calls on several rows fail; may be known already."""
        self._one_row_batches = 0
        self._rows = 0
        self._rescued: deque[tuple[int, int]] = deque(maxlen=RESCUED_BATCHES)
        self._failed_batches = 0

    @property
    def try_whole(self) -> bool:
        """Whether the next batch is left whole, to see if the lanes made the last ones fail."""
        return self._failed_batches >= FAILED_BATCHES

    def count(self, rows: int) -> None:
        """A batch begins."""
        self._rows += rows

    def learn(self, record: BatchRecord, *, split: bool, probe: bool, unread: bool) -> str:
        """A batch has ended; returns why batches must stay whole, or nothing.

        Args:
            record: of the batch.
            split: whether its calls ran beside each other.
            probe: whether its calls had more rows than the plan gives them.
            unread: whether it was the first to show that payloads are no rows. Later batches get
                sizes that fit that.
        """
        outcomes = record.outcomes
        if not (outcomes.retried or outcomes.rescued or self._failed_batches or outcomes.stopped):
            return ""  # nothing has failed
        misread = [f for f in outcomes.rescued if is_misread(f.error)]
        rescued = [
            failure
            for failure in outcomes.rescued
            if failure not in misread and not is_out_of_memory(failure.error)
        ]
        reasons = [
            "" if unread else _why_misread(misread, outcomes),
            self._why_thread_bound(record.rows, sum(len(f.indices) for f in rescued)),
        ]
        if not rescued and not probe:  # else the lanes or the probe's size made calls fail
            self._learn_one_row(outcomes)
        if not split and not outcomes.failures and self.try_whole:
            reasons.append(THREAD_BOUND % record.rows)
        self._failed_batches = self._failed_batches + 1 if split and outcomes.stopped else 0
        return next(filter(None, reasons), "")

    def _why_thread_bound(self, rows: int, rescued: int) -> str:
        if not rescued:
            return ""
        self._rescued.append((self._rows - rows, rescued))
        since, total = self._rescued[0][0], sum(count for _, count in self._rescued)
        often = total >= RESCUED_SHARE * (self._rows - since)
        return THREAD_BOUND % total if often and len(self._rescued) == RESCUED_BATCHES else ""

    def _learn_one_row(self, outcomes: Outcomes) -> None:
        if self.one_row or outcomes.failures or not any(call.failed for call in outcomes.calls):
            return
        several = [call for call in outcomes.calls if len(call.indices) > 1]
        good = {call.stage for call in several if not call.failed}
        bad = Counter(call.stage for call in several if call.failed)
        fail = any(calls > 1 and stage not in good for stage, calls in bad.items())
        self._one_row_batches = self._one_row_batches + 1 if fail else 0
        self.one_row = self._one_row_batches == ONE_ROW_BATCHES


def _why_misread(misread: Sequence[Failure], outcomes: Outcomes) -> str:
    if not misread:
        return ""
    # Calls of one row are cut, too: if those alone passed, cutting did not make the call fail.
    uncut = any(
        call.stage == STAGES[-1] and not call.failed and len(call.indices) > 1
        for call in outcomes.calls
    )
    if not uncut and any(len(failure.indices) > 1 for failure in misread):
        return ""
    return (
        f"{misread[0].error}; uncut, such batches are answered. Return one row for each "
        f"request, or override cut_payload and join_payloads"
    )
