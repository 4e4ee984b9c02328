"""A hosted stage: the method of the handler, on rows of several members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.responses import Response, checked, response_of
from micro_batch_handler.torchserve.views import viewed_by

__all__ = ["HostStage"]


class HostStage:
    """Calls one method of the host's handler; this is what the host's lane calls.

    Args:
        handler: that was loaded in this process.
        stage: the method's name; None for the `handle` of the class beside the mixin.
        context: of the load.
    """

    def __init__(self, handler: Any, stage: Stage | None, context: Context) -> None:
        self._handler: MicroBatchMixin = handler
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
        view = _HostContext(self._context, requests)
        self._context.metrics.request_ids = dict(enumerate(identity for identity, _ in requests))
        with viewed_by(self._handler, view):
            if self._stage is None:
                beside: Any = super(MicroBatchMixin, self._handler)
                result = beside.handle(payload, view)
            else:
                result = getattr(self._handler, self._stage)(payload)
        return result, view.effects()


class _HostContext(MicroBatchContext):
    """The context of a host call: of the load, with the requests of the call.

    Args:
        context: of the load.
        requests: the id and the headers of each.
    """

    def __init__(self, context: Context, requests: Sequence[Any]) -> None:
        super().__init__(context, range(len(requests)))
        self.__dict__["_requests"] = requests

    def effects(self) -> Sequence[Response | None] | None:
        """What was set for each row, None for nothing; None for all if nobody looked.

        Raises:
            ValueError: one of them would break the worker protocol.
        """
        processors = self.__dict__.get("_request_processor")
        if processors is None:
            return None
        found = [checked(response_of(processor)) for processor in processors]
        return [None if response == Response() else response for response in found]

    def _own_processors(self) -> list[RequestProcessor]:
        return [RequestProcessor(dict(headers)) for _, headers in self._requests]

    def _own_request_ids(self) -> dict[int, str]:
        return dict(enumerate(identity for identity, _ in self._requests))
