"""What a lane calls for a stage: the handler's method, in the view of the rows that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.views import viewed_by
from micro_batch_handler.torchserve.wire.encode import encode, is_json

__all__ = ["stage_function"]


def stage_function(handler: Any, stage: Stage) -> StageFunction:
    """What a lane calls: the handler's method, in the view of the rows that it gets."""

    def call(batch: ServedBatch, indices: Sequence[int], payload: Payload) -> tuple[Payload, Keep]:
        view = MicroBatchContext(batch.context, indices, batch)
        variables = copy_context() if batch.watched else None
        with viewed_by(handler, view):
            # Looked up at each call, since handlers may replace a stage on the instance.
            try:
                result = getattr(handler, stage)(payload)
            except BaseException:
                batch.failed()
                raise
        batch.returned(stage)
        if variables is not None and _has_changed(variables):
            batch.only_whole(f"{stage} sets a context variable, which other threads do not see")
        if batch.encoded and stage == STAGES[-1] and isinstance(result, list):
            view.answers_json([at for at, answer in enumerate(result) if is_json(answer)])
            result = [encode(answer) for answer in result]
        return result, view.keep

    return call


def _has_changed(before: Variables) -> bool:
    """Whether a context variable has another value than it had."""
    now = copy_context()
    return any(variable not in before or before[variable] is not now[variable] for variable in now)
