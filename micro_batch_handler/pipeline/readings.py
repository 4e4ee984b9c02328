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
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.ambiguity import holds_places, is_ambiguous
from micro_batch_handler.pipeline.payloads import Payload, PayloadOps, Uncuttable, rows_of
from micro_batch_handler.pipeline.regroup import bounds

__all__ = ["Readings"]

ENOUGH = 2
"""Numbers of rows whose calls must agree."""

SURE = 3
"""Rows that have the same number by design, not by chance."""

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
        self._probes = 0
        self._seen = dict.fromkeys(self._agree, 0)
        self._lock = threading.Lock()
        trusted = trusted or ops.rows_of is not rows_of or ops.group_by is not None
        self.rows: bool | None = True if trusted else None
        """Whether payloads are rows; None while that is not known."""
        self.why_not = ""
        """What was returned instead."""

    @property
    def may_cut(self) -> bool:
        """Whether payloads may be cut and joined now.

        Calls of one row are not called with two to find out: that they return what may be a place
        is found out meanwhile.
        """
        return self.rows or (self.rows is None and self._most_rows == 1)

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
            self._end(False, f"{stage} returned {found} rows for {rows} requests")
        elif not is_ambiguous(result, rows) and not (rows > 1 and holds_places(result, rows)):
            agree.add(rows)
            if all(len(counts) >= ENOUGH for counts in self._agree.values()):
                self._end(True)

    def joined(self, payload: Payload, calls: int, rows: int) -> None:
        """So many calls have returned these rows, which are now one payload.

        If each call had one row, and each gave it the number 0, that may be its place.

        Raises:
            PayloadError: so it is.
        """
        if self._most_rows == 1 and self.rows is None and calls == rows >= SURE:
            if holds_places(payload, rows, [0] * rows):
                self._end(False, f"each of {rows} calls returned a 0: the place of its only row?")
                raise PayloadError("preprocess", self.why_not)
            self._end(True)

    def check(self, stage: Stage) -> None:
        """Refuse to cut or join what a stage has returned, if it is known not to be rows.

        Raises:
            PayloadError: it is not.
        """
        if self.rows is False:
            raise PayloadError(stage, self.why_not)

    def probe(self, rows: int) -> list[range]:
        """Groups in which a batch tells the most, each to be passed whole."""
        if min(self._seen.values()) >= MOST_PROBES:
            self._end(False, "what the stages return may be rows, or hold their places")
        # Calls of two sizes, from one batch to the next and within the second.
        self._probes += 1
        size = min(self._most_rows, rows)
        less = 0 if self._probes % 2 else max(1, size // 2 - 1)
        rest = [range(less + start, less + stop) for start, stop in bounds(rows - less, size)]
        return [range(less), *rest] if 0 < less < rows else rest

    def _end(self, rows: bool, why_not: str = "") -> None:
        if self.rows is not None:
            return
        self.why_not = why_not
        self.rows = rows
        self._learned(rows)
