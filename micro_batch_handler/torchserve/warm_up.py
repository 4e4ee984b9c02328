"""Calls inference with every allowed size when the model loads, so that no request has to wait.

A compiler, a CUDA graph and cuDNN's search prepare each size when it first comes, for seconds or
minutes. A CUDA graph belongs to the thread that made it, so the calls go through the lanes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.planning.plan import Plan

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

CALLS = 3
"""Of each size. With graphs of `torch.compile` the first call warms up, the second records, and the
third replays, as all later ones do (torch/_inductor/cudagraph_trees.py)."""


def warm_up(
    example_row: Callable[[], Any] | None,
    pipeline: Pipeline,
    sizes: Sequence[int],
    batch_of: Callable[[Context], Any],
    context: Context,
) -> None:
    """Answer the handler's `example_row()` in batches of each size, three times, the largest first.

    Args:
        example_row: the handler's hook; None if it has none.
        pipeline: has the lanes.
        sizes: the allowed ones, in ascending order; none if all are allowed.
        batch_of: makes the batch that calls belong to, from its context.
        context: of the load.

    Raises:
        ConfigError: the handler cannot answer its own example.
    """
    if not sizes:
        return
    row = None if example_row is None else example_row()
    if row is None:
        logger.info(
            "micro_batching.allowed_sizes %s: each is slow when it first comes. Override "
            "example_row() in the handler to have them called when the model loads",
            list(sizes),
        )
        return
    for size in reversed(sizes):
        for _ in range(CALLS):
            rows = [copy.deepcopy(row) for _ in range(size)]
            _answer(pipeline, rows, batch_of(_context_of_requests(context, size)))
        logger.info("inference is warm for %d rows", size)


def _answer(pipeline: Pipeline, rows: list[Any], batch: Any) -> None:
    size = len(rows)
    outcomes = pipeline.run(rows, Plan.of(size), batch, bounded=False)
    if outcomes.failures:
        failure = next(iter(outcomes.failures.values()))
        raise ConfigError(
            f"example_row() fails in a batch of {size}: {failure.stage} raised "
            f"{failure.error!r}. Mend the example or the stage"
        ) from failure.error


def _context_of_requests(context: Context, rows: int) -> Context:
    """The load's context, with so many requests without headers."""
    batch = copy.copy(context)
    batch.request_ids = dict.fromkeys(range(rows), "example_row")
    batch.request_processor = [RequestProcessor({}) for _ in range(rows)]
    return batch
