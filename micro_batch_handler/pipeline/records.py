"""What happened to a batch: which calls were made for it, where and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from micro_batch_handler.config import Stage
from micro_batch_handler.planning.plans import Plan

if TYPE_CHECKING:
    from micro_batch_handler.pipeline.batch import Outcomes

__all__ = ["INLINE", "LANE", "BatchRecord", "CallRecord", "Listener"]

LANE = "mbh-"
"""What the name of every lane begins with."""

INLINE = "caller"
"""In place of a lane's name: the thread that called the pipeline, where a batch ran unsplit."""


class CallRecord(NamedTuple):
    """One call of one stage that has returned, raised or been given up.

    Times are seconds on the pipeline's clock, of Python: on a device with streams a call ends when
    its work has been asked for, which may be before it is done.
    """

    stage: Stage
    indices: Sequence[int]
    """The requests in it, as places in the batch."""
    thread: str
    """The name of the lane, `mbh-inference-0`; or `INLINE`."""
    ready_s: float
    """When its rows were there, so that a free lane could have begun; the rest is queueing."""
    began_s: float
    ended_s: float
    failed: bool
    """Whether its result did not count: it raised, or took longer than it may."""


class BatchRecord(NamedTuple):
    """One batch, and what became of it."""

    rows: int
    plan: Plan
    began_s: float
    """When it was cut, on the pipeline's clock."""
    ended_s: float
    """When its last request was settled."""
    outcomes: Outcomes
    """With the records of all calls."""


Listener: TypeAlias = Callable[[BatchRecord], None]
"""Is told of each batch when it has ended, in the thread that called for it."""
