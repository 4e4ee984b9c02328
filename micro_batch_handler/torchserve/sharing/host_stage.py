"""A hosted stage: the handler's method, on rows of several members."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.responses import Response, response_of
from micro_batch_handler.torchserve.views import viewed_by

__all__ = ["HostStage"]


class HostStage:
    """Calls one method of the host's handler; this is what the host's lane calls.

    Args:
        handler: that was loaded in this process.
        stage: the method's name.
        context: of the load.
    """

    def __init__(self, handler: Any, stage: Stage, context: Context) -> None:
        self._handler = handler
        self._stage = stage
        self._context = context

    def __call__(
        self, payload: Payload, requests: Sequence[Any]
    ) -> tuple[Payload, Sequence[Response | None] | None]:
        """What the method returns, and for each row the status and headers that it has set.

        Args:
            payload: of the rows, and of those that fill the call up.
            requests: the id and the headers of each row's request.

        Raises:
            BaseException: whatever the method raises.
        """
        batch = copy.copy(self._context)
        batch.request_ids = {at: identity for at, (identity, _) in enumerate(requests)}
        batch.request_processor = [RequestProcessor(dict(headers)) for _, headers in requests]
        view = MicroBatchContext(batch, range(len(requests)))
        with viewed_by(self._handler, view):
            result = getattr(self._handler, self._stage)(payload)
        view.keep()
        found = [response_of(processor) for processor in batch.request_processor]
        effects = [None if response == Response() else response for response in found]
        return result, effects if any(effects) else None
