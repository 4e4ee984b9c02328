"""A call of the hosted stages, as the pipeline of a member makes it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakSet

from ts.context import Context

from micro_batch_handler.errors import HostLost
from micro_batch_handler.hosting.client import HostClient, Rows
from micro_batch_handler.hosting.kinds import kind_of
from micro_batch_handler.hosting.remote_errors import RemoteFault
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps
from micro_batch_handler.pipeline.stage import Keep
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.responses import Response, response_of, set_response
from micro_batch_handler.torchserve.routed import raw_value
from micro_batch_handler.torchserve.served_batch import ServedBatch

__all__ = ["HostedCall", "HostedHandle", "pass_on"]


class HostedCall:
    """Asks the model host for the rows of a micro-batch; the pipeline calls it as a stage.

    Args:
        client: asks the host.
        ops: how payloads are joined.
        most_rows: of a host call.
        may_merge: whether what the stages return is known to be rows.
    """

    def __init__(
        self,
        client: HostClient,
        ops: PayloadOps,
        most_rows: int,
        may_merge: Callable[[], bool],
    ) -> None:
        self._client = client
        self._ops = ops
        self._most_rows = most_rows
        self._may_merge = may_merge
        self._lost: WeakSet[ServedBatch] = WeakSet()
        """Batches of which a call has lost its host."""

    def __call__(self, batch: ServedBatch, call: Call, payload: Payload) -> tuple[Payload, Keep]:
        """What the hosted stages return for these requests, and what makes their effects visible.

        Raises:
            HostMissing: there was no host in time.
            HostLost: the host ended during the call.
            BaseException: whatever the handler's method raises in the host.
        """
        micro_batch = call.micro_batch
        rows = Rows(
            payload,
            len(micro_batch),
            self._kind(call, payload),
            self._may_merge() and not micro_batch.failed and self._is_whole(call, payload),
            self._most_rows,
            _context_of(batch.context, micro_batch.indices),
            alone=batch in self._lost,
        )
        try:
            told = self._client.ask(call.stage, rows, batch.until_s)
        except HostLost:
            # Its neighbours must not be taken for the row that ends the next host.
            self._lost.add(batch)
            raise
        except RemoteFault as found:
            call.host, call.stage, error = found.call, found.stage, found.error
        else:
            call.host = told.call
            view = MicroBatchContext(batch.context, micro_batch.indices, batch)
            _add_responses(view, told.effects)
            return told.result, view.keep
        raise error  # here, where the first one is no context of it

    def _is_whole(self, call: Call, payload: Payload) -> bool:
        """Whether a payload has as many rows as the call, so that a result can be shared out."""
        return self._ops.count(payload) in (None, len(call.micro_batch))

    def _kind(self, call: Call, payload: Payload) -> Hashable:
        keys = [part.keys[part.start] for part in call.parts if part.keys is not None]
        return (*keys[:1], kind_of(payload, self._ops))


class HostedHandle:
    """The `handle` of the class beside the mixin, in the host, which has the model for it.

    Args:
        client: asks the host.
        until_s: how long to wait for the host, from now on.
    """

    def __init__(self, client: HostClient, until_s: Callable[[], float | None]) -> None:
        self._client = client
        self._until_s = until_s

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        """What it answers to these requests; statuses and headers are set in `context`.

        Raises:
            BaseException: whatever it raises, or that there was no host.
        """
        requests = range(len(context.request_processor or ()))
        rows = Rows(
            data,
            len(data),
            kind=None,
            merges=False,
            most_rows=len(data),
            context=_context_of(context, requests),
            handles=True,
        )
        try:
            told = self._client.ask("handle", rows, self._until_s())
        except RemoteFault as found:
            error = found.error
        else:
            _add_responses(context, told.effects)
            answers: list[Any] = told.result
            return answers
        raise error


def pass_on(_batch: ServedBatch, _call: Call, payload: Payload) -> tuple[Payload, None]:
    """A hosted stage whose work is done in the call of the next one."""
    return payload, None


def _context_of(context: Context, indices: Sequence[int]) -> list[Any]:
    """For each of these requests its id and headers."""
    ids = raw_value(context, "request_ids") or {}
    processors = raw_value(context, "_request_processor")
    return [
        (ids.get(index), processors[index].get_request_properties() if processors else {})
        for index in indices
    ]


def _add_responses(context: Context, effects: Sequence[Sequence[Response | None]] | None) -> None:
    """Set what was set in the host, stage after stage, on top of what was set before."""
    for place, response in (entry for stage in effects or () for entry in enumerate(stage)):
        if response is None:
            continue
        processor = context.request_processor[place]
        before = response_of(processor)
        set_response(
            processor,
            Response(
                before.status if response.status == Response().status else response.status,
                before.phrase if response.phrase is None else response.phrase,
                {**before.headers, **response.headers},
            ),
        )
