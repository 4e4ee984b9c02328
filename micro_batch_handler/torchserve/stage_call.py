"""A call of the user's method for one stage, in the view of the rows that it gets."""

from __future__ import annotations

from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.stage import Keep
from micro_batch_handler.torchserve.call_threads import CallThreads
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.views import viewed_by
from micro_batch_handler.torchserve.wire.encode import encode, is_json

__all__ = ["StageCall"]


class StageCall:
    """Calls one method of a handler; this is what `StageMethod` in pipeline/stage.py calls.

    Args:
        handler: has the method, which is looked up at each call: handlers may replace a stage on
            the instance.
        stage: the method's name.
        threads: of PyTorch inside the call.
    """

    def __init__(self, handler: Any, stage: Stage, threads: CallThreads) -> None:
        self._handler = handler
        self._stage = stage
        self._threads = threads

    def __call__(self, batch: ServedBatch, call: Call, payload: Payload) -> tuple[Payload, Keep]:
        """What the method returns for these requests of the batch, encoded if nobody reads it.

        Also gives back what makes the statuses and headers visible that the method has set.

        Raises:
            SplitError: the batch is cut, and the method does what it can do with whole ones only.
            BaseException: whatever the method raises.
        """
        self._threads.use()
        view = MicroBatchContext(batch.context, call.micro_batch.indices, batch)
        variables = copy_context() if batch.watched else None
        with viewed_by(self._handler, view):
            try:
                result = getattr(self._handler, self._stage)(payload)
            except BaseException:
                batch.failed()
                raise
        batch.returned(self._stage)
        if variables is not None and _has_changed(variables):
            batch.only_whole(
                f"{self._stage} sets a context variable, which other threads do not see"
            )
        if batch.encoded and self._stage == STAGES[-1] and isinstance(result, list):
            view.answers_json([at for at, answer in enumerate(result) if is_json(answer)])
            result = [encode(answer) for answer in result]
        return result, view.keep


def _has_changed(before: Variables) -> bool:
    """Whether a context variable has another value than it had."""
    now = copy_context()
    return any(variable not in before or before[variable] is not now[variable] for variable in now)
