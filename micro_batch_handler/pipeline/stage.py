"""A stage: its method, and the checks of what goes in and comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import LengthError, PayloadError, RegroupError, StageError
from micro_batch_handler.pipeline.batch import Batch
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.grouping import Keys, by_constants, keys_made, keys_passed_on
from micro_batch_handler.pipeline.lane_pool import Permits
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part, gather
from micro_batch_handler.pipeline.payloads.operations import (
    Payload,
    PayloadOps,
    Uncuttable,
    own,
    pad,
)
from micro_batch_handler.pipeline.payloads.readings import Readings
from micro_batch_handler.pipeline.watch import alarm
from micro_batch_handler.planning.sizes import padded

__all__ = ["Keep", "StageFunction", "StageMethod"]

logger = logging.getLogger(__name__)

Keep: TypeAlias = Callable[[], None]
"""Makes the side effects of a call visible; called only if its result counts."""

StageFunction: TypeAlias = Callable[[Any, Call, Payload], "tuple[Payload, Keep | None]"]
"""(tag of the batch, the call with its micro-batch, payload) -> (result, what to do if it counts)

Who runs the call is the function's affair: this process, or another one."""

HOW_TO_REGROUP = (
    "Give both stages the same micro_batch_size, or override cut_payload(payload, start, stop) and "
    "join_payloads(payloads) in the handler"
)

HOW_TO_FILL = (
    "Remove allowed_sizes, or override cut_payload(payload, start, stop) and "
    "join_payloads(payloads) in the handler"
)


class StageMethod:
    """What is called for one stage, and the checks around it.

    Args:
        name: of the stage.
        function: that is called.
        lanes: the most calls at a time.
        ops: how payloads are counted, cut and joined.
        readings: learns whether what the stage returns can be read as rows.
        streams: of the device that the function uses.
        timeout_s: the longest that a call may take where an alarm bounds it; None for any time.
        allowed_sizes: the row counts that it may be called with, ascending; none for any.
    """

    def __init__(
        self,
        name: Stage,
        function: StageFunction,
        lanes: int,
        ops: PayloadOps,
        readings: Readings,
        streams: Streams | NoStreams,
        timeout_s: float | None = None,
        allowed_sizes: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.permits = Permits(lanes)
        """Held during a call. Not only this stage's lanes call it: where rows start again, those of
        a later stage do. `parallelism` is a promise to functions that stand no more threads."""
        self._function = function
        self._ops = ops
        self._readings = readings
        self._streams = streams
        self._timeout_s = timeout_s
        self._allowed_sizes = allowed_sizes
        position = STAGES.index(name)
        self._before = STAGES[position - 1] if position else None
        self._last = position == len(STAGES) - 1
        self._told_apart = False
        self.groups = ops.group_by is not None
        """Whether later stages are called apart for rows of different kinds."""

    def call(self, batch: Batch, call: Call) -> tuple[Sequence[Part], Keep | None]:
        """Call the function on the rows of a micro-batch, in this thread.

        The handler's hooks are a part of the call: they join what it needs, and tell whether its
        result can be cut.

        Returns:
            The result, as the only part of what comes next; and what to do if it counts.

        Raises:
            Unreadable: requests in it cannot be decoded; nothing was called.
            RegroupError: what the stage before returned cannot be cut or joined.
            LengthError: the function returned another number of rows than it got.
            PayloadError: what goes in or comes out cannot be regrouped or filled up.
            StageError: postprocess returned something else than a list.
            StageTimeout: the alarm rang.
            BaseException: whatever the function raises.
        """
        parts, serial = call.parts, call.micro_batch.serial
        rows = len(call.micro_batch)
        size = padded(rows, self._allowed_sizes) if self._allowed_sizes else rows
        regroups = call.called == call.position and batch.regroups(call.position)
        bound_s = self._timeout_s if call.inline and batch.interruptible else None
        work = self._streams.work(self.name, parts, rows, overlaps=not call.inline)
        # The alarm inside: it must not ring while streams change hands.
        with work, alarm(self.name, bound_s):
            payload = work.take_in(self._take_in(batch, call))
            if size != rows:
                payload = self._filled(payload, rows, size)
            result, keep = self._function(batch.tag, call, payload)
            # What is neither cut nor joined may be anything: then only the answers are counted.
            if size != rows or self._last or (not serial and (regroups or self.groups)):
                self._check(result, size)
            if self._allowed_sizes:
                result = self._own(result, rows, size)
            self._readings.note(self.name, result, rows, size)
            if regroups:
                self._check_regroups(result)
            keys = None if serial else self._keys(result, parts, rows)
            result = work.hand_over(result)
        return [Part(result, rows, 0, rows, work.done, keys)], keep

    def apart(self, micro_batch: MicroBatch) -> list[MicroBatch]:
        """The same rows, those whose payloads cannot be joined apart; logged once."""
        groups, where = by_constants(micro_batch, self._ops)
        if where and not self._told_apart:
            self._told_apart = True
            logger.warning(
                "%s is called apart for rows of different calls of %s, since %s of what that "
                "returned is no row and differs from call to call. Return it for each row, in a "
                "list or tensor, or override join_payloads(payloads) and cut_payload(payload, "
                "start, stop) to have calls of the size that is set",
                self.name,
                self._before,
                where,
            )
        return groups

    def misread(self, result: Payload, rows: int) -> LengthError | None:
        """The error of a result that is not so many rows; None if it is, or cannot be counted."""
        found = self._ops.count(result)
        if found is None or found == rows:
            return None
        hint = (
            "a list holds one item a row; return columns as a tuple or a mapping"
            if isinstance(result, list)
            else "the first dimension must be the rows"
        )
        return LengthError(self.name, rows, found, hint)

    def _take_in(self, batch: Batch, call: Call) -> Payload:
        """The rows of a call as one payload: requests, or what the stage before returned."""
        parts = call.parts
        if not parts:
            return batch.requests.take(call.micro_batch.indices)
        why_not = self._readings.why_whole
        if why_not and (len(parts) > 1 or parts[0].stop - parts[0].start < parts[0].rows):
            raise RegroupError(self.name, f"needs some rows of a call only, but {why_not}")
        try:
            gathered = gather(parts, self._ops)
        except Uncuttable as error:
            raise RegroupError(
                self.name, f"cannot regroup what {self._before} returned: {error}. {HOW_TO_REGROUP}"
            ) from None
        if len(parts) > 1:
            self._readings.joined(gathered, len(parts), len(call.micro_batch))
        return gathered

    def _filled(self, payload: Payload, rows: int, size: int) -> Payload:
        """A payload filled up to an allowed size."""
        try:
            return pad(payload, rows, size, self._ops)
        except Uncuttable as error:
            raise self._cannot_be_filled(size, error) from None

    def _own(self, result: Payload, rows: int, size: int) -> Payload:
        """A copy of a result, without what filled it up, which need not stay in memory.

        It may be a CUDA graph's, which the next call overwrites while postprocess reads it.
        """
        try:
            return own(result if size == rows else self._ops.cut(result, 0, rows))
        except Uncuttable as error:
            raise self._cannot_be_filled(size, error) from None

    def _cannot_be_filled(self, size: int, error: Uncuttable) -> PayloadError:
        return PayloadError(
            self.name, f"cannot be filled up to {size} rows: {error}. {HOW_TO_FILL}"
        )

    def _check_regroups(self, result: Payload) -> None:
        """Refuse a result that the plan wants cut or joined and that cannot be.

        Checked for each call, so that one wrong result does not spoil those it would be joined to.
        """
        try:
            self._ops.rows_of(result)
        except Uncuttable as error:
            raise PayloadError(
                self.name, f"returned what cannot be regrouped: {error}. {HOW_TO_REGROUP}"
            ) from None
        self._readings.check(self.name)

    def _keys(self, result: Payload, parts: Sequence[Part], rows: int) -> Keys:
        """Which rows of a result may share a call of the next stage; see grouping.py."""
        if self._ops.group_by is None:
            return None
        if self._before is not None:
            return keys_passed_on(parts, rows)
        return keys_made(self._ops.group_by, self.name, result, rows)

    def _check(self, result: Payload, rows: int) -> None:
        if self._last:
            if not isinstance(result, list):
                kind = type(result).__name__
                raise StageError(self.name, f"returned {kind}; it must return a list of answers")
            if len(result) != rows:
                raise LengthError(self.name, rows, len(result))
            return
        error = self.misread(result, rows)
        if error is not None:
            raise error
