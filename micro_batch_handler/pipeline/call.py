"""One call of one stage while it runs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.records import INLINE, LANE, CallRecord

__all__ = ["Call"]


class Call:
    """A stage, a micro-batch and what is known of both in the thread that makes the call.

    Args:
        at: the position of the stage that is called.
        position: of the stage that the rows are to pass: that one, or a later one if the rows start
            again from their requests.
        micro_batch: the rows.
        parts: what the call takes in; none if it begins with the requests.
        rest: what the same lane is going to do next; another lane must, if this call hangs.
    """

    __slots__ = (
        "at",
        "began_s",
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
        at: int,
        position: int,
        micro_batch: MicroBatch,
        parts: Sequence[Part],
        rest: Sequence[MicroBatch],
    ) -> None:
        self.at = at
        self.stage: Stage = STAGES[at]
        self.position = position
        self.micro_batch = micro_batch
        self.parts = parts
        """Held here only, so that it can be let go of after a fault."""
        self.rest = rest
        self.thread = threading.current_thread()
        self.inline = not self.thread.name.startswith(LANE)
        """Whether it runs in the thread that was handed the batch, with nothing beside it."""
        self.began_s = 0.0
        """When it began, on the pipeline's clock: with decoding, once it had its permit."""

    def record(self, ended_s: float, *, failed: bool) -> CallRecord:
        """What is kept of it."""
        ready_s = self.micro_batch.ready_s
        return CallRecord(
            self.stage,
            self.micro_batch.indices,
            INLINE if self.inline else self.thread.name,
            # Rows that are called again are ready when their thread turns to them.
            self.began_s if ready_s is None else min(ready_s, self.began_s),
            self.began_s,
            ended_s,
            failed,
        )
