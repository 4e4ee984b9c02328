"""A hosted stage's function, called on the rows of one or several questions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from micro_batch_handler.errors import LengthError
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.micro_batch import Part, gather
from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps, own, pad
from micro_batch_handler.planning.sizes import padded

__all__ = ["HostFunction", "HostedFunction"]

logger = logging.getLogger(__name__)

HostFunction: TypeAlias = Callable[[Payload, Sequence[Any]], "tuple[Payload, Sequence[Any] | None]"]
"""(payload, context of each row) -> (result, effects of each row; None if there are none)"""


class HostedFunction:
    """Joins the rows of questions, fills them up, calls the function, and checks what it returns.

    Args:
        stage: for streams and errors.
        function: that is called.
        ops: how payloads are counted, cut and joined.
        streams: of the device that the function uses.
        allowed_sizes: the row counts that it may be called with, ascending; none for any.
    """

    def __init__(
        self,
        stage: Any,
        function: HostFunction,
        ops: PayloadOps,
        streams: Streams | NoStreams,
        allowed_sizes: Sequence[int] = (),
    ) -> None:
        self.cuts = True
        """Whether what it returns can be shared out, as far as is known."""
        self._stage = stage
        self._function = function
        self._ops = ops
        self._streams = streams
        self._allowed_sizes = allowed_sizes

    def call(
        self, parts: Sequence[Part], rows: int, requests: Sequence[Any], *, merged: bool
    ) -> tuple[Part, Sequence[Any] | None, Callable[[], float | None]]:
        """Call it.

        Args:
            parts: that hold the rows.
            rows: their number.
            requests: for the function.
            merged: whether they belong to several questions, so that the result must be rows.

        Returns:
            The result, its effects, and what gives the seconds that the device has worked.

        Raises:
            Uncuttable: rows cannot be joined, or the result cannot be shared out.
            LengthError: the result has another number of rows.
            BaseException: whatever the function raises.
        """
        size = padded(rows, self._allowed_sizes) if self._allowed_sizes else rows
        with self._streams.work(self._stage, parts, rows) as work:
            payload = gather(parts, self._ops)
            if size != rows:
                payload = pad(payload, rows, size, self._ops)
            result, effects = self._function(payload, requests)
            if size != rows or merged:
                self._check(result, size)
            if self._allowed_sizes:
                # It may be a graph's, which the next call overwrites.
                result = own(result if size == rows else self._ops.cut(result, 0, rows))
            result = work.hand_over(result)
        if isinstance(self._streams, NoStreams):
            # No event tells how far the device is, and calls would not wait to be merged.
            self._streams.finish()
        return Part(result, rows, 0, rows, work.done), effects, work.device_timer()

    def _check(self, result: Payload, rows: int) -> None:
        """Refuse a result that cannot be shared out.

        Raises:
            LengthError: it has another number of rows.
            Uncuttable: it is not made of rows.
        """
        found = self._ops.count(result)
        if found is None:
            try:
                self._ops.rows_of(result)  # silent if the handler has hooks for it
            except Exception:
                self.cuts = False
                logger.warning(
                    "%s returns what cannot be cut into the rows of several workers, so each "
                    "worker's rows are called apart. Return rows, or override "
                    "cut_payload(payload, start, stop) and join_payloads(payloads)",
                    self._stage,
                )
                raise
        elif found != rows:
            raise LengthError(self._stage, rows, found)
