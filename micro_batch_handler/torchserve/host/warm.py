"""Calls of all allowed sizes before the host answers anybody; see torchserve/warm_up.py."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps, pad
from micro_batch_handler.pipeline.payloads.structure import change_leaves
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.hooks import hook_of
from micro_batch_handler.torchserve.host.stage import HostStage
from micro_batch_handler.torchserve.warm_up import CALLS

__all__ = ["example", "example_row", "warm_up"]

logger = logging.getLogger("micro_batch_handler.torchserve.host.warm")


def example_row(handler: Any) -> Any:
    """A request of the handler's hook; None if it has none."""
    hook: Callable[[], Any] | None = hook_of(handler, "example_row", MicroBatchMixin)
    return None if hook is None else hook()


def example(handler: Any, row: Any, device: Accelerator | None) -> Payload:
    """What inference gets for the example, on the device if rows are copied there."""
    one = handler.preprocess([copy.deepcopy(row)])
    if device is None:
        return one
    return change_leaves(
        one, lambda leaf: device.upload(leaf, wait=True) if device.is_on_host(leaf) else leaf
    )


def warm_up(
    inference: HostStage,
    one: Payload,
    sizes: tuple[int, ...],
    ops: PayloadOps,
    streams: Streams | NoStreams,
) -> None:
    """Call all allowed sizes, the largest first, in the thread and stream of later calls.

    Raises:
        ConfigError: the handler cannot answer its own example.
    """
    requests: list[tuple[str, dict[str, str]]] = [("example_row", {})]
    for size in reversed(sizes):
        try:
            with streams.work("inference", (), size):
                payload = one if size == 1 else pad(one, 1, size, ops)
                for _ in range(CALLS):
                    inference(payload, requests)
        except BaseException as error:
            raise ConfigError(
                f"example_row() fails in a call of {size}: inference raised {error!r}. Mend the "
                f"example or the stage"
            ) from error
        logger.info("inference is warm for %d rows", size)
