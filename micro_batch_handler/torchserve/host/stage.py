"""A hosted stage: the method of the handler, on rows of several members."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.host.changes import HostWatch
from micro_batch_handler.torchserve.refusals import OR_NOT
from micro_batch_handler.torchserve.responses import Response, checked, response_of
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.views import viewed_by

__all__ = ["HostHandle", "HostStage"]

logger = logging.getLogger("micro_batch_handler.torchserve.host.stage")


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
        self._watch = HostWatch(handler, stage)
        self._rows = _HostedRows(stage)

    def __call__(
        self, payload: Payload, requests: Sequence[Any]
    ) -> tuple[Payload, Sequence[Response | None] | None]:
        """What the method returns, and for each row the status and headers that it has set.

        Args:
            payload: of the rows, and of those that fill the call up.
            requests: the id and the headers of each row's request.

        Raises:
            ConfigError: the method has changed the handler, which other stages would not see.
            BaseException: whatever the method raises.
        """
        view = _HostContext(self._context, requests, self._rows)
        self._watch.begin()
        with viewed_by(self._handler, view):
            result = getattr(self._handler, self._stage)(payload)
        self._watch.look()
        return result, view.effects()


class HostHandle:
    """Calls the `handle` of the class beside the mixin, for describe and explain requests.

    Args:
        handler: that was loaded in this process.
        context: of the load.
    """

    def __init__(self, handler: MicroBatchMixin, context: Context) -> None:
        self._handler = handler
        self._context = context

    def __call__(
        self, data: Payload, requests: Sequence[Any]
    ) -> tuple[Payload, Sequence[Response | None] | None]:
        """What it answers to these requests, and what it has set for each of them.

        Raises:
            BaseException: whatever it raises.
        """
        view = _HostContext(self._context, requests, _HostedRows("handle"))
        beside: Any = super(MicroBatchMixin, self._handler)
        with viewed_by(self._handler, view):
            answers = beside.handle(data, view)
        return answers, view.effects()


class _HostContext(MicroBatchContext):
    """The context of a host call: of the load, with the requests of the call.

    Args:
        context: of the load.
        requests: the id and the headers of each.
        rows: is told what the stage does that it cannot do here.
    """

    def __init__(self, context: Context, requests: Sequence[Any], rows: ServedBatch) -> None:
        super().__init__(context, range(len(requests)), rows)
        self.__dict__["_requests"] = requests
        context.metrics.request_ids = self._own_request_ids()

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


class _HostedRows(ServedBatch):
    """The rows of a host call, as a context tells them what a stage does that it cannot do here.

    Args:
        stage: that is called.
    """

    def __init__(self, stage: str) -> None:  # there is no batch
        self._stage = stage

    def only_whole(self, why: str, *, too_late: bool = False) -> None:
        """Refuse what needs a whole batch in one process.

        Raises:
            ConfigError: unless it is too late for that.
        """
        text = f"{self._stage} cannot run in the process with the model: {why}"
        if too_late:
            logger.error("%s", text)
            return
        raise ConfigError(f"{text}. Change that, {OR_NOT}")

    def streams(self, indices: Sequence[int]) -> None:  # noqa: ARG002
        """Refuse to send parts of answers.

        Raises:
            ConfigError: always.
        """
        self.only_whole("it sends parts of its answers")
