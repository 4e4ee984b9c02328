"""Whether what the stages return can be read as rows, learned before anything is cut.

    2 requests -> a list of 2                    two rows, or two outputs of the network?
    2 requests -> a tensor of 2 x 5              two rows, or two frames of one video?

One call cannot tell, so a payload counts as rows once calls on two different numbers of rows have
returned so many. Until then, a batch that would be cut between the stages is called whole.

    {"x": rows, "count": 2}                      a constant goes along unchanged

A constant must be the same in all calls unless it is a fraction (a loss). Any other that differs
may name rows of its call, as a set with the places of bad rows does. A number that was in
proportion to the rows in two calls would be wrong in a part of either, so such a payload does not
count as rows.

Payloads may be cut before two calls could be compared: where calls have one row, or the handler's
author says that payloads are rows. There, one number that equals the rows of its call is enough to
stop cutting. Integers in the rows that may be their places are not enough: the batch is repeated
whole, and the next calls decide. A batch in which a constant differs is repeated whole too.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.payloads.ambiguity import holds_places
from micro_batch_handler.pipeline.payloads.evidence import Evidence
from micro_batch_handler.pipeline.payloads.operations import (
    Payload,
    PayloadOps,
    Uncuttable,
    rows_of,
)

__all__ = ["Readings"]

CERTAIN_ZEROS = 3
"""Calls of one row that all returned a 0, which are enough to take it for the place of the row."""

MOST_PROBES = 12
"""Calls of each stage that are looked at. If they leave it open, payloads do not count as rows."""


class Readings:
    """What is known of the payloads of one handler. Every method may be called from any thread.

    Args:
        ops: how payloads are counted. If the handler has hooks for that, nothing is learned; if it
            has `group_by`, its author says that payloads are rows.
        most_rows: of a call, by the handler's settings.
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
        self._has_hooks = ops.rows_of is not rows_of
        self._most_rows = most_rows
        self._learned = learned
        self._settled = self._has_hooks
        trusted = trusted or self._has_hooks or ops.group_by is not None
        self._evidence = {stage: Evidence(stage, trusted=trusted) for stage in STAGES[:-1]}
        self._lock = threading.Lock()
        self._probes = 0
        self._constant_differs = False
        self.rows: bool | None = True if trusted else None
        """Whether payloads are rows; None while that is not known."""
        self.why_not = ""
        """Why payloads are not rows."""

    def know(self, rows: bool, why_not: str) -> None:
        """Take over what was learned of the same handler before."""
        self.rows, self.why_not = rows, why_not
        self._settled = True

    @property
    def may_cut(self) -> bool:
        """Whether payloads may be cut and joined now.

        A handler whose calls have one row is not called with two to learn more.
        """
        return self.rows or (self.rows is None and self._most_rows == 1)

    @property
    def why_whole(self) -> str:
        """Why no payload may be cut or joined now; "" if it may."""
        return "" if self.may_cut else self.why_not or "it is not known yet whether these are rows"

    def note(self, stage: Stage, result: Payload, rows: int, called: int = 0) -> None:
        """Learn from what a call of a stage has returned.

        Args:
            stage: that was called.
            result: without the rows that filled it up.
            rows: that went in.
            called: rows of the call, with those that filled it up; 0 if there were none.
        """
        evidence = self._evidence.get(stage)
        if evidence is None or self.rows is False or self._has_hooks:
            return
        try:
            why_not = evidence.changed_constant(result)
        except Exception as error:
            why_not = f"what {stage} returns cannot be read: {error!r}"
        if why_not:
            self._constant_differs = True
            self._end(False, why_not)
        if not self._settled and evidence.is_open_for(rows):
            with self._lock:
                self._look_at(evidence, stage, result, rows, called or rows)

    def _look_at(
        self, evidence: Evidence, stage: Stage, result: Payload, rows: int, called: int
    ) -> None:
        try:
            why_not = evidence.look_at(result, rows, called, is_cut=self.may_cut)
        except Exception as error:
            # Once payloads are known to be rows, this result is wrong, and not what was learned.
            if self.rows is None:
                unread = f"what {stage} returns cannot be read: {error!r}"
                self._end(False, str(error) if isinstance(error, Uncuttable) else unread)
            return
        if why_not:
            self._end(False, why_not)
        elif all(each.is_enough for each in self._evidence.values()):
            self._end(True)

    def take_suspicion(self) -> bool:
        """Whether payloads that were cut since the last time may have named rows of their calls."""
        suspicious = self._constant_differs
        self._constant_differs = False
        for evidence in self._evidence.values():
            suspicious |= evidence.suspicious
            evidence.suspicious = False
        return suspicious

    def joined(self, payload: Payload, calls: int, rows: int) -> None:
        """Learn from a payload that was joined of so many calls with so many rows in all.

        If each call had one row, and each returned a 0, that may be the place of its row.

        Raises:
            PayloadError: it may be.
        """
        if self._most_rows == 1 and self.rows is None and calls == rows >= CERTAIN_ZEROS:
            if holds_places(payload, rows, [0] * rows):
                self._end(False, f"each of {rows} calls returned a 0: the place of its only row?")
                raise PayloadError("preprocess", self.why_not)
            self._end(True)

    def check(self, stage: Stage) -> None:
        """Refuse to cut or join what a stage has returned if payloads are known not to be rows.

        Raises:
            PayloadError: they are not.
        """
        if self.rows is False:
            raise PayloadError(stage, self.why_not)

    def probe(self, rows: int) -> list[range]:
        """The groups of a batch's rows that teach the most, each to be called whole.

        They give calls of two sizes: from one batch to the next, and within each second batch.
        """
        if min(each.calls for each in self._evidence.values()) >= MOST_PROBES:
            self._end(False, "what the stages return may be rows, or hold their places")
        self._probes += 1
        size = min(self._most_rows, rows)
        fewer = 0 if self._probes % 2 else max(1, size // 2 - 1)
        groups = [range(fewer)] if 0 < fewer < rows else []
        return groups + [range(at, min(at + size, rows)) for at in range(fewer, rows, size)]

    def _end(self, rows: bool, why_not: str = "") -> None:
        if self.rows in (rows, False):
            return
        self.why_not = why_not
        self.rows = rows
        self._learned(rows)
