"""One call of one stage: while it runs, and the record that is kept of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part

__all__ = ["INLINE", "LANE", "LOADING_LANE", "Call", "CallRecord"]

LANE = "mbh-"
"""The name of every lane begins with this."""

LOADING_LANE = f"{LANE}loading"
"""So begins the name of a lane that has loaded the handler."""

INLINE = "caller"
"""Stands for the name of the lane where a call was made in the thread that ran the batch, or in the
one that loaded the handler: nothing of the batch runs beside it."""


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
    """When it got its permit. Rows that start from their requests are decoded after that."""
    ended_s: float
    failed: bool
    """Whether its result did not count: it raised, or took longer than it may."""
    host: Any = None
    """The host call that it was a part of, see hosting/messages.py; None if it ran here."""


class Call:
    """One call of a stage on a micro-batch, while it runs.

    Args:
        called: the position of the stage that is called.
        position: of the stage that the rows are to pass: that one, or a later one if the rows start
            again from their requests.
        micro_batch: the rows.
        parts: what the call takes in; none if it begins with the requests.
        rest: what the same lane is going to do next; another lane must, if this call hangs.
        home: the thread that runs the batch.
    """

    __slots__ = (
        "began_s",
        "called",
        "host",
        "inline",
        "micro_batch",
        "parts",
        "position",
        "rest",
        "stage",
        "thread",
    )

    def __init__(
        self,
        called: int,
        position: int,
        micro_batch: MicroBatch,
        parts: Sequence[Part],
        rest: list[MicroBatch],
        home: threading.Thread,
    ) -> None:
        self.called = called
        self.stage: Stage = STAGES[called]
        """That is called, or of several hosted stages the one that failed."""
        self.position = position
        self.micro_batch = micro_batch
        self.parts = parts
        """What it takes in, and when it has returned its result; let go of after a fault."""
        self.rest = rest
        self.thread = threading.current_thread()
        self.inline = self.thread is home
        """Whether it runs in the thread that was handed the batch, with nothing beside it."""
        self.host: Any = None
        """What is known of the host call that it was a part of; None if it ran in this process."""
        self.began_s = 0.0
        """When it got its permit, on the pipeline's clock. Decoding comes after that."""

    def record(self, ended_s: float, *, failed: bool) -> CallRecord:
        """What is kept of it."""
        ready_s = self.micro_batch.ready_s
        return CallRecord(
            self.stage,
            self.micro_batch.indices,
            INLINE
            if self.inline or self.thread.name.startswith(LOADING_LANE)
            else self.thread.name,
            # Rows that are called again are ready when their thread turns to them.
            self.began_s if ready_s is None else min(ready_s, self.began_s),
            self.began_s,
            ended_s,
            failed,
            self.host,
        )
