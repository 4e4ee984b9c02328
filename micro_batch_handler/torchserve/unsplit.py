"""The unsplit path: what the class beside the mixin answers in its own way.

    the profiler                   the whole batch
    an envelope's rows             the whole batch, since its rows are not the requests
    describe, explain              the request that asks; the whole batch if all ask the same

TorchServe's handlers look at the first request only: there, a client that sends the header
`describe` among others makes the whole batch fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ts.context import Context

from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.pipeline.recovery import inspectable
from micro_batch_handler.torchserve.context import MicroBatchContext, answer_part
from micro_batch_handler.torchserve.fault_log import FaultLog
from micro_batch_handler.torchserve.faults import answer_failures
from micro_batch_handler.torchserve.routed import viewed_by

__all__ = ["answer_apart", "asking", "is_for_all"]

Answer = Callable[[list[Any], Context], list[Any]]

ASKED_BY_HEADER = ("describe", "explain")


def asking(context: Context, rows: int) -> dict[int, str]:
    """Which requests ask for something else than a prediction, and for what."""
    processors = context.request_processor
    if processors is None or len(processors) != rows:
        return {}
    return {
        index: header
        for index, processor in enumerate(processors)
        for header in ASKED_BY_HEADER
        if processor.get_request_property(header) == "True"
    }


def is_for_all(context: Context, rows: int, asked: dict[int, str]) -> bool:
    """Whether the whole batch takes the unsplit path."""
    if os.environ.get("ENABLE_TORCH_PROFILER"):
        return True
    if context.request_processor is not None and len(context.request_processor) != rows:
        return True
    return bool(asked) and len(asked) == rows and len(set(asked.values())) == 1


def answer_apart(
    data: list[Any],
    context: Context,
    asked: dict[int, str],
    unsplit: Answer,
    usual: Answer,
    log: FaultLog,
) -> list[Any]:
    """Answer each request that asks for something else alone, and the others as usual."""
    answers: dict[int, Any] = {}
    for index in asked:
        view = MicroBatchContext(context, [index])
        try:
            with viewed_by(None, view):
                (answers[index],) = unsplit([data[index]], view)
            view.keep()
        except BaseException as error:
            failure = Failure("inference", inspectable(error), [0])
            log.failed([failure], view)
            (answers[index],) = answer_failures(Outcomes([None], {0: failure}, []), view)
            view.keep()
    others = [index for index in range(len(data)) if index not in asked]
    if others:
        answers.update(answer_part(usual, data, context, others))
    return [answers[index] for index in range(len(data))]
