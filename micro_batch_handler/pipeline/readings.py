"""Whether what the stages return can be read as rows, learned before anything is cut.

    2 requests -> a list of 2                    two rows, or two outputs of the network?
    2 requests -> a tensor of 2 x 5              two rows, or two frames of one video?

One call cannot tell, so a payload counts as rows once calls on two different numbers of rows have
returned so many. Until then, batches that would be cut between the stages run whole.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.payloads import (
    Payload,
    PayloadOps,
    Uncuttable,
    holds_places,
    is_ambiguous,
    rows_of,
)
from micro_batch_handler.pipeline.regroup import bounds

__all__ = ["Readings"]

ENOUGH = 2
"""Numbers of rows whose calls must agree."""

MOST_PROBES = 12
"""Calls of each stage that are looked at; what they leave open stays open."""


class Readings:
    """What is known of the payloads of one handler. Every method may be called from any thread.

    Args:
        ops: how payloads are counted; with hooks of the handler's own, these know, and with
            `group_by` its author does.
        most_rows: of a call, as its settings have it.
        learned: told once whether payloads are rows.
        trusted: whether there is nothing to learn.
    """

    def __init__(
        self,
        ops: PayloadOps,
        most_rows: int = sys.maxsize,
        learned: Callable[[bool], None] = lambda _rows: None,
        *,
        trusted: bool = False,
    ) -> None:
        self._ops = ops
        self._most_rows = most_rows
        self._learned = learned
        self._agree: dict[Stage, set[int]] = {stage: set() for stage in STAGES[:-1]}
        self._probes = self._places = 0
        self._seen = dict.fromkeys(self._agree, 0)
        self._lock = threading.Lock()
        trusted = trusted or ops.rows_of is not rows_of or ops.group_by is not None
        self.rows: bool | None = True if trusted else None
        """Whether payloads are rows; None while that is not known."""
        self.why_not = ""
        """What was returned instead."""

    def note(self, stage: Stage, result: Payload, rows: int) -> None:
        """A call of a stage on so many rows has returned this."""
        agree = self._agree.get(stage)
        if self.rows is not None or agree is None or len(agree) >= ENOUGH or rows in agree:
            return
        with self._lock:
            self._note(stage, agree, result, rows)

    def _note(self, stage: Stage, agree: set[int], result: Payload, rows: int) -> None:
        self._seen[stage] += 1
        try:
            found = self._ops.rows_of(result)
        except Uncuttable as error:
            self._end(False, f"what {stage} returns cannot be cut: {error}")
            return
        if found != rows:
            # With sizes of 1 a handler may take one row a call, and be right to.
            alone = self._most_rows == 1 and rows > 1
            self._end(alone, f"{stage} returned {found} rows for {rows} requests")
        elif rows > 1 and holds_places(result, rows):
            self._places += 1
        elif not is_ambiguous(result, rows):
            agree.add(rows)
            if all(len(counts) >= ENOUGH for counts in self._agree.values()):
                self._end(True)

    def probe(self, rows: int) -> list[range]:
        """Groups in which a batch tells the most, each to be passed whole."""
        if self._most_rows == 1 and self._probes >= ENOUGH:
            # It may take one row a call, and fail for two.
            self._end(not self._places, "what the stages return may hold the places of rows")
        elif min(self._seen.values()) >= MOST_PROBES:
            self._end(False, "what the stages return may be rows, or hold their places")
        # Calls of two sizes, from one batch to the next and within the second.
        self._probes += 1
        size = min(max(self._most_rows, ENOUGH), rows)
        less = 0 if self._probes % 2 else max(1, size // 2 - 1)
        rest = [range(less + start, less + stop) for start, stop in bounds(rows - less, size)]
        return [range(less), *rest] if 0 < less < rows else rest

    def _end(self, rows: bool, why_not: str = "") -> None:
        if self.rows is not None:
            return
        self.why_not = why_not
        self.rows = rows
        self._learned(rows)
