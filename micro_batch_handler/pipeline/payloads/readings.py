"""Whether what the stages return can be read as rows, learned before anything is cut.

    2 requests -> a list of 2                    two rows, or two outputs of the network?
    2 requests -> a tensor of 2 x 5              two rows, or two frames of one video?

One call cannot tell, so a payload counts as rows once calls on two different numbers of rows have
returned so many. Until then, batches that would be cut between the stages run whole.

    {"x": rows, "count": 2}                      what is no row goes along unchanged

It must be the same in all calls, but for a fraction (a loss): anything else that differs may name
rows of its call, as a set of the places of bad rows does. A number that was in proportion to the
rows in both calls would be wrong in a part of either, so such a payload does not count as rows.

Where payloads are cut before two calls could be compared,
since calls have one row or the handler's author says so, one number that equals the rows of its
call is enough. Numbers in the rows that may be their places are not: what was cut of such a batch
is thrown away, and the next calls decide. So it is where a constant turns out to differ.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.pipeline.payloads.ambiguity import figures, holds_places, is_ambiguous
from micro_batch_handler.pipeline.payloads.constants import carried, named, same_constant
from micro_batch_handler.pipeline.payloads.operations import (
    Payload,
    PayloadOps,
    Uncuttable,
    rows_of,
)
from micro_batch_handler.pipeline.regroup import bounds

__all__ = ["Readings"]

ENOUGH = 2
"""Numbers of rows whose calls must agree."""

SURE = 3
"""Rows that have the same number by design, not by chance."""

CERTAIN_ROWS = 16
"""Rows of two or more calls that all held 0 to k - 1. Labels of two or four classes do so by chance
in single calls, and a counter in the first."""

MOST_PROBES = 12
"""Calls of each stage that are looked at; what they leave open stays open."""


@dataclass(frozen=True)
class _Figures:
    """The numbers beside the rows that a call has returned, by where they stand."""

    rows: int
    """Of the call."""

    numbers: Mapping[str, float]

    def growing(self, before: Iterable[_Figures]) -> str:
        """The first that was in proportion to the rows here and in another call."""
        return self._first(
            lambda where, number: any(
                number
                and other.rows != self.rows
                and other.numbers.get(where, 0) * self.rows == number * other.rows
                for other in before
            )
        )

    def equal(self, before: Iterable[_Figures]) -> str:
        """The first that is the number of rows, unless another call has shown that it is not."""
        return self._first(
            lambda where, number: (
                number == self.rows and not any(where in other.numbers for other in before)
            )
        )

    def _first(self, is_meant: Callable[[str, float], object]) -> str:
        found = (f"{where} = {n:g}" for where, n in self.numbers.items() if is_meant(where, n))
        return next(found, "")


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
        self._agree: dict[Stage, dict[int, _Figures]] = {stage: {} for stage in STAGES[:-1]}
        self._probes = 0
        self._seen = dict.fromkeys(self._agree, 0)
        self._lock = threading.Lock()
        self._constants: dict[Stage, dict[str, Any]] = {stage: {} for stage in STAGES[:-1]}
        """Of the first call."""
        self._suspects: dict[Stage, list[int]] = {}
        """The rows of calls that may have held places, of stages that have not shown otherwise."""
        self._suspicious = False
        self._settled = ops.rows_of is not rows_of
        self._trusted = trusted or self._settled or ops.group_by is not None
        self.rows: bool | None = True if self._trusted else None
        """Whether payloads are rows; None while that is not known."""
        self.why_not = ""
        """What was returned instead."""

    def know(self, rows: bool, why_not: str) -> None:
        """Take over what was learned of the same handler before."""
        self.rows, self.why_not = rows, why_not
        self._settled = True

    @property
    def may_cut(self) -> bool:
        """Whether payloads may be cut and joined now.

        Calls of one row are not called with two to find out: that they return what may be a place
        is found out meanwhile.
        """
        return self.rows or (self.rows is None and self._most_rows == 1)

    @property
    def why_whole(self) -> str:
        """Why no payload may be cut or joined now; nothing if it may."""
        return "" if self.may_cut else self.why_not or "it is not known yet whether these are rows"

    def note(self, stage: Stage, result: Payload, rows: int, called: int = 0) -> None:
        """A call of a stage has returned this.

        Args:
            stage: whose call it was.
            result: what it returned, without what filled it up.
            rows: that went in.
            called: rows of the call, with those that filled it up; 0 if there were none.
        """
        agree = self._agree.get(stage)
        if self.rows is False or self._ops.rows_of is not rows_of or agree is None:
            return
        if not isinstance(result, (list, torch.Tensor, np.ndarray)):
            self._compare(stage, result)
        if not self._settled and len(agree) < ENOUGH and rows not in agree:
            with self._lock:
                try:
                    self._note(stage, agree, result, rows, called or rows)
                except Exception as error:  # of an object that cannot be looked at
                    self._doubt(f"what {stage} returns cannot be read: {error!r}")

    def _compare(self, stage: Stage, result: Payload) -> None:
        """Constants that may name rows of their call must be the same in all calls.

        A set of places of bad rows is mostly empty, so two calls do not tell; what was cut or
        joined in a batch in which it is seen is thrown away.
        """
        before = self._constants[stage]
        try:
            for where, constant in named(result):
                if where not in before:
                    before[where] = carried(constant)  # which a later stage does not change
                elif not same_constant(before[where], constant):
                    self._constants[stage] = {}  # it may be large
                    self._suspicious = True
                    why_not = "is not the same in all calls, and may name rows of its call"
                    self._end(False, f"{where} of what {stage} returns {why_not}")
                    return
        except Exception as error:
            self._suspicious = True
            self._end(False, f"what {stage} returns cannot be read: {error!r}")

    def _note(
        self, stage: Stage, agree: dict[int, _Figures], result: Payload, rows: int, called: int
    ) -> None:
        self._seen[stage] += 1
        try:
            found = self._ops.rows_of(result)
        except Uncuttable as error:
            self._doubt(f"what {stage} returns cannot be cut: {error}")
            return
        if found != rows:
            self._doubt(f"{stage} returned {found} rows for {rows} requests")
            return
        ambiguous = is_ambiguous(result, rows)
        places = rows > 1 and holds_places(result, rows)
        told = _Figures(called, dict(figures(result)))
        before = agree.values()
        counts = told.growing(before) or (told.equal(before) if self.may_cut else "")
        if counts:
            why_not = f"returned {counts} for {called} rows, which may tell how many these are"
            self._end(False, f"{stage} {why_not}")
        elif ambiguous and self.may_cut:
            why_not = f"returned {rows} items of {rows} rows each, which may be rows or columns"
            self._end(False, f"{stage} {why_not}")
        elif places and self.may_cut and not self._trusted:
            self._suspect(stage, rows, shown=any(size > 1 for size in agree))
        elif not ambiguous and not places:
            agree[rows] = told
            if rows > 1 and self._suspects.pop(stage, []):
                self._suspicious = bool(self._suspects)
            if all(len(counted) >= ENOUGH for counted in self._agree.values()):
                self._end(True)

    def _suspect(self, stage: Stage, rows: int, *, shown: bool) -> None:
        """A call may have returned places of rows; `shown`: another one has shown otherwise."""
        if shown:
            return
        self._suspicious = True
        calls = self._suspects.setdefault(stage, [])
        calls.append(rows)
        if len(calls) > 1 and sum(calls) >= CERTAIN_ROWS:
            self._end(False, f"{stage} returned 0 to {rows - 1}, which may be places of rows")

    def take_suspicion(self) -> bool:
        """Whether what was cut since the last time may have held places of rows."""
        suspicious, self._suspicious = self._suspicious, False
        return suspicious

    def _doubt(self, why_not: str) -> None:
        """A result is not made of rows; where it is known that they are, that is a fault of it."""
        if self.rows is None:
            self._end(False, why_not)

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
        if self.rows in (rows, False):
            return
        self.why_not = why_not
        self.rows = rows
        self._learned(rows)
