"""The record of one call of a stage: which rows, where and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from micro_batch_handler.config import Stage

__all__ = ["INLINE", "LANE", "CallRecord"]

LANE = "mbh-"
"""The name of every lane begins with this."""

INLINE = "caller"
"""Stands for the name of the lane where a call was made in the thread that ran the batch."""


class CallRecord(NamedTuple):
    """One call of one stage that has returned, raised or been given up.

    Times are seconds on the pipeline's clock, as Python sees them: on a device with streams a call
    ends when its work has been enqueued, which may be before the work is done.
    """

    stage: Stage
    indices: Sequence[int]
    """The requests in it, as places in the batch."""
    thread: str
    """The name of the lane, `mbh-inference-0`; or `INLINE`."""
    ready_s: float
    """When its rows were there, so that a free lane could have begun; the rest is queueing."""
    began_s: float
    """When its thread began to work for it; for rows that start from their requests, decoding
    them is a part of the call."""
    ended_s: float
    failed: bool
    """Whether its result did not count: it raised, or took longer than it may."""
