"""Which rows a call gets: no expired requests, and no more rows than the memory allows."""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import BatchTimeout, DeadlinePassed
from micro_batch_handler.pipeline.batch import Batch, Steps
from micro_batch_handler.pipeline.grouping import by_key
from micro_batch_handler.pipeline.memory import MemoryLimits
from micro_batch_handler.pipeline.micro_batch import MicroBatch
from micro_batch_handler.pipeline.outcomes import Failure
from micro_batch_handler.pipeline.stage import StageMethod
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Admission", "without_failed"]


class Admission:
    """Looks at each micro-batch before it is called.

    Args:
        stages: in order.
        memory: how many rows fit.
        clock: the time.
    """

    def __init__(self, stages: Sequence[StageMethod], memory: MemoryLimits, clock: Clock) -> None:
        self._stages = stages
        self._memory = memory
        self._clock = clock
        self.groups = any(stage.groups for stage in stages)
        """Whether rows are kept apart by keys."""

    def before_call(self, batch: Batch, position: int, micro_batch: MicroBatch) -> Steps | None:
        """What to do instead of a call with these rows; None if it may be made as it is.

        Steps that become free by what is taken out come first, since they must be handed on before
        a call that may hang.
        """
        crowded = batch.crowded
        if crowded is not None and not (micro_batch.parts or micro_batch.serial):
            # Memory has run out: what is under way lets go of its own, and nothing else begins.
            failure = Failure(crowded.stage, crowded.error, micro_batch.indices)
            return batch.fail(position, failure, aside=True)
        # The first call of a whole batch is made in any case: it repeats nothing.
        part = micro_batch.serial and len(micro_batch) < len(batch.requests)
        if (micro_batch.failed or part) and batch.is_late(self._clock.now_s()):
            stage = STAGES[position if micro_batch.parts else 0]
            return batch.fail(position, Failure(stage, BatchTimeout(stage), micro_batch.indices))
        if batch.deadlines_s is not None:
            now_s = self._clock.now_s()
            gone = [index for index in micro_batch.indices if batch.is_expired(index, now_s)]
            if gone:
                stage = STAGES[position if micro_batch.parts else 0]
                failure = Failure(stage, DeadlinePassed(stage), gone)
                return without_failed(batch, position, micro_batch, [failure])
        pieces = self._pieces(position, micro_batch)
        return [(position, piece) for piece in pieces] if len(pieces) > 1 else None

    def _pieces(self, position: int, micro_batch: MicroBatch) -> Sequence[MicroBatch]:
        """The same rows in calls of those that may share one, no more than fit the memory."""
        if self.groups and len(groups := by_key(micro_batch)) > 1:
            return groups
        if len(micro_batch.parts) > 1:
            groups = self._stages[position].apart(micro_batch)
            if len(groups) > 1:
                return groups
        limit = self._memory.limit(position, serial=micro_batch.serial)
        return micro_batch.pieces(limit) if len(micro_batch) > limit else (micro_batch,)


def without_failed(
    batch: Batch, position: int, micro_batch: MicroBatch, failures: Sequence[Failure]
) -> Steps:
    """End some requests of a micro-batch before it is called.

    Returns:
        What that frees at later stages, and then the other requests, for the same stage: what is
        free must be handed on before a call that may hang.
    """
    steps: Steps = []
    gone: set[int] = set()
    for failure in failures:
        steps += batch.fail(position, failure)
        gone.update(failure.indices)
    places = [place for place, index in enumerate(micro_batch.indices) if index not in gone]
    if places:
        steps.append((position, micro_batch.only(places, planned=micro_batch.planned)))
    return steps
