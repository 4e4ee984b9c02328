"""What the calls of one stage have shown about its payloads: rows, places, numbers, constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.payloads.ambiguity import (
    constants_of,
    holds_places,
    is_ambiguous,
    may_name_rows,
    numbers_beside_rows,
)
from micro_batch_handler.pipeline.payloads.constants import copy_of_constant, same_constant
from micro_batch_handler.pipeline.payloads.operations import Payload, Uncuttable, rows_of

__all__ = ["Evidence"]

ENOUGH_SIZES = 2
"""Numbers of rows whose calls must agree."""

CERTAIN_ROWS = 16
"""Two or more calls that each return 0 to k - 1 return places if they have so many rows in all.
Fewer rows may do so by chance, such as labels of a few classes, or a counter in its first call."""


class Evidence:
    """What calls of one stage have returned so far.

    Args:
        stage: whose calls they are.
        trusted: whether the handler's author says that payloads are rows, so that integers which
            look like places are none.
    """

    def __init__(self, stage: Stage, *, trusted: bool) -> None:
        self._stage = stage
        self._trusted = trusted
        self.calls = 0
        """Calls that were looked at."""
        self.suspicious = False
        """Whether a call may have returned places of rows since this was last set to False."""
        self._suspect_calls: list[int] = []
        """The rows of each call that may have returned places, until a call shows otherwise."""
        self._agreed: dict[int, tuple[int, dict[str, float]]] = {}
        """Calls that returned, unambiguously, as many rows as went in, by these rows: how many rows
        the stage was called with, and the numbers beside the rows, by where they stand."""
        self._constants: dict[str, Any] = {}
        """Constants of the first call that returned them, by where they stand."""

    @property
    def is_enough(self) -> bool:
        """Whether calls on different numbers of rows have returned so many rows."""
        return len(self._agreed) >= ENOUGH_SIZES

    def is_open_for(self, rows: int) -> bool:
        """Whether another call on so many rows may show something new."""
        return not self.is_enough and rows not in self._agreed

    def changed_constant(self, result: Payload) -> str:
        """Why a constant of this result may name rows of its call; "" if none does."""
        if isinstance(result, (list, torch.Tensor, np.ndarray)):
            return ""  # holds no constants
        for where, constant in constants_of(result):
            if not may_name_rows(constant):
                continue
            if where not in self._constants:
                self._constants[where] = copy_of_constant(constant)  # later stages may change it
            elif not same_constant(self._constants[where], constant):
                self._constants = {}  # it may be large
                why_not = "is not the same in all calls, and may name rows of its call"
                return f"{where} of what {self._stage} returns {why_not}"
        return ""

    def look_at(self, result: Payload, rows: int, called: int, *, is_cut: bool) -> str:
        """Learn from what a call has returned.

        Args:
            result: without the rows that filled it up.
            rows: that it should have.
            called: rows of the call, with those that filled it up.
            is_cut: whether payloads are cut already. Then a doubtful result counts against them;
                otherwise it shows nothing, and another call decides.

        Returns:
            Why payloads must not be cut; "" if nothing is against it so far.

        Raises:
            Uncuttable: the result is not made of so many rows.
        """
        self.calls += 1
        try:
            found = rows_of(result)
        except Uncuttable as error:
            raise Uncuttable(f"what {self._stage} returns cannot be cut: {error}") from None
        if found != rows:
            raise Uncuttable(f"{self._stage} returned {found} rows for {rows} requests")
        ambiguous = is_ambiguous(result, rows)
        places = rows > 1 and holds_places(result, rows)
        numbers = dict(numbers_beside_rows(result))
        why_not = ""
        if number := self._telling_number(numbers, called, is_cut=is_cut):
            why_not = f"{number} for {called} rows, which may tell how many these are"
        elif ambiguous and is_cut:
            why_not = f"{rows} items of {rows} rows each, which may be rows or columns"
        elif not ambiguous and not places:
            self._agreed[rows] = called, numbers
            if rows > 1 and self._suspect_calls:
                self._suspect_calls, self.suspicious = [], False
        elif is_cut and self._suspect(rows):
            why_not = f"0 to {rows - 1}, which may be places of rows"
        return f"{self._stage} returned {why_not}" if why_not else ""

    def _telling_number(self, numbers: dict[str, float], called: int, *, is_cut: bool) -> str:
        """The first number beside the rows that may tell how many these are, or "".

        It is in proportion to the rows, here and in another call. Where payloads are cut already,
        it is enough that it equals the rows and has not been seen in another call.
        """
        for where, number in numbers.items():
            seen = [
                (rows, before[where]) for rows, before in self._agreed.values() if where in before
            ]
            in_proportion = any(
                rows != called and before * called == number * rows for rows, before in seen
            )
            if number and (in_proportion or (is_cut and not seen and number == called)):
                return f"{where} = {number:g}"
        return ""

    def _suspect(self, rows: int) -> bool:
        """Whether it is certain that calls return places of rows, after one that may have."""
        if self._trusted or any(size > 1 for size in self._agreed):
            return False  # another call of more than one row has shown that it returns none
        self.suspicious = True
        self._suspect_calls.append(rows)
        return len(self._suspect_calls) > 1 and sum(self._suspect_calls) >= CERTAIN_ROWS
