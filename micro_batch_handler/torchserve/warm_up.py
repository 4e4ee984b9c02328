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
from micro_batch_handler.torchserve.compiling import compile_beside
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.splitting import Splitting

__all__ = ["warm_up"]

logger = logging.getLogger(__name__)

CALLS = 3
"""Of each size. With graphs of `torch.compile` the first call warms up, the second records, and the
third replays, as all later ones do (torch/_inductor/cudagraph_trees.py)."""


def warm_up(
    handler: Any,
    example_row: Callable[[], Any] | None,
    pipeline: Pipeline,
    sizes: Sequence[int],
    splitting: Splitting,
    context: Context,
) -> None:
    """Answer the handler's `example_row()` in batches of each size, three times, the largest first.

    The sizes come in ascending order; none if all are allowed. A model that `pt2` compiles is
    compiled beside the calls from then on, and without an example beside those of the first
    requests.

    Raises:
        ConfigError: the handler cannot answer its own example.
    """
    if not sizes:
        return
    row = None if example_row is None else example_row()
    model_yaml = getattr(context, "model_yaml_config", None) or {}
    if compile_beside(handler, sizes, model_yaml) and row is None:
        return
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
            requests = _context_of_requests(context, size)
            batch = ServedBatch(requests, splitting, encoded=False, split=False)
            outcomes = pipeline.run(rows, Plan.of(size), batch, bounded=False)
            failure = next(iter(outcomes.failures.values()), None)
            if failure is not None:
                raise ConfigError(
                    f"example_row() fails in a batch of {size}: {failure.stage} raised "
                    f"{failure.error!r}. Mend the example or the stage"
                ) from failure.error
        logger.info("inference is warm for %d rows", size)


def _context_of_requests(context: Context, rows: int) -> Context:
    """The load's context, with so many requests without headers."""
    batch = copy.copy(context)
    batch.request_ids = dict.fromkeys(range(rows), "example_row")
    batch.request_processor = [RequestProcessor({}) for _ in range(rows)]
    return batch
