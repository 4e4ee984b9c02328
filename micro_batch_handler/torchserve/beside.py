"""Requests that the class beside the mixin answers by its own `handle`.

    the profiler is on             the whole batch
    an envelope made the rows      the whole batch, since rows and requests differ in number
    describe, explain              each request that asks; the whole batch if all ask the same

TorchServe's handlers look at the headers of the first request only. There, one client that sends
the header `describe` makes the whole batch fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ts.context import Context

from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.pipeline.recovery import inspectable
from micro_batch_handler.torchserve.context import answer_part
from micro_batch_handler.torchserve.fault_log import FaultLog
from micro_batch_handler.torchserve.faults import answer_failures
from micro_batch_handler.torchserve.views import viewed_by

__all__ = ["answer_apart", "asking_beside"]

Answer = Callable[[list[Any], Context], list[Any]]

ASKED_BY_HEADER = ("describe", "explain")


def asking_beside(context: Context, rows: int) -> dict[int, str] | None:
    """The requests that ask for something else than a prediction: by index, what they ask for.

    None if the class beside the mixin answers the whole batch.
    """
    processors = context.request_processor
    from_envelope = processors is not None and len(processors) != rows
    if from_envelope or os.environ.get("ENABLE_TORCH_PROFILER"):
        return None
    asking = {
        index: header
        for index, processor in enumerate(processors or ())
        for header in ASKED_BY_HEADER
        if processor.get_request_property(header) == "True"
    }
    return None if len(asking) == rows and len(set(asking.values())) == 1 else asking


def answer_apart(
    data: list[Any],
    context: Context,
    asking: dict[int, str],
    beside: Answer,
    usual: Answer,
    log: FaultLog,
) -> list[Any]:
    """The answers of a batch: of each request in `asking` by `beside`, of the others by `usual`."""

    def alone(data: list[Any], view: Context) -> list[Any]:
        with viewed_by(None, view):
            return beside(data, view)

    answers: dict[int, Any] = {}
    failures: dict[int, Failure] = {}
    for index in asking:
        try:
            answers.update(answer_part(alone, data, context, [index]))
        except BaseException as error:  # noqa: PERF203  (few requests ask)
            failures[index] = Failure("inference", inspectable(error), [index])
    log.failed(failures.values(), context)
    others = [index for index in range(len(data)) if index not in asking]
    if others:
        answers.update(answer_part(usual, data, context, others))
    outcomes = Outcomes([answers.get(index) for index in range(len(data))], failures, [])
    return answer_failures(outcomes, context)
