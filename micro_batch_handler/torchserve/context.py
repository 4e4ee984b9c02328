"""The batch's Context as one micro-batch sees it: index 0 is the micro-batch's first row.

The status and headers that a call sets are written to the batch only if the call's result counts.
So a call that fails leaves no trace on the other requests of its micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from micro_batch_handler.torchserve.responses import (
    STREAM_NEXT,
    checked,
    declare_json,
    response_of,
    set_response,
)
from micro_batch_handler.torchserve.routed import KEPT_ON_CONTEXT, ROUTED, ViewMetrics, raw_value
from micro_batch_handler.torchserve.served_batch import ServedBatch
from micro_batch_handler.torchserve.views import ROUTES, routes_of

__all__ = ["MicroBatchContext", "answer_part"]


class MicroBatchContext(Context):  # type: ignore[misc]  # ts is untyped
    """A view of `batch` for the requests at `indices`.

    TorchServe's own methods work on it unchanged. They read `request_ids`, `_request_processor` and
    `_metrics`, which are made for the micro-batch at first use; everything else is the batch's.

    Args:
        batch: the context of the batch, or a view of it.
        indices: the places of the micro-batch's rows in `batch`.
        served: is told what the calls do that may forbid to cut batches; None where nothing is cut.
    """

    def __init__(
        self, batch: Context, indices: Sequence[int], served: ServedBatch | None = None
    ) -> None:
        # Context.__init__ is not called, since only a missing attribute leads to __getattr__.
        self.__dict__["_batch"] = batch
        self.__dict__["_indices"] = indices
        self.__dict__["_served"] = served
        # TorchServe uses one Context for all batches. A call that is given up and still goes on
        # must neither see the next batch's requests nor write to them.
        self.__dict__["_batch_processors"] = raw_value(batch, "_request_processor")
        self.__dict__["_batch_ids"] = raw_value(batch, "request_ids")
        self.__dict__["_json_places"] = ()
        self.__dict__[ROUTES] = routes_of(batch)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_batch" not in self.__dict__:
            raise AttributeError(name)  # as copy and pickle expect of a bare object
        make = MADE_AT_FIRST_USE.get(name)
        if make is None:
            return getattr(self._batch, name)
        # Several lanes may ask a view of a view at once: all get the value of the first.
        return self.__dict__.setdefault(name, getattr(self, make)())

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ROUTED or name in MADE_AT_FIRST_USE:
            self.__dict__[name] = value
            return
        # Where nothing is cut, a stage may leave something on the context for the next one.
        self.only_whole(KEPT_ON_CONTEXT.format(name))
        setattr(self._batch, name, value)

    def keep(self) -> None:
        """Write statuses and response headers to the batch.

        Raises:
            ValueError: one of them would break the worker protocol, and so the whole batch.
        """
        processors = self.__dict__.get("_request_processor")
        if isinstance(processors, dict):  # as `count_by` makes it
            processors = list(processors.values())
        if processors is not None:  # else never asked for, so nothing was set
            # All are checked before any is set.
            responses = [checked(response_of(mine)) for mine in processors]
            for index, response in zip(self._indices, responses, strict=True):
                set_response(self._batch_processors[index], response)
        if self._batch_processors is not None:
            for place in self._json_places:
                declare_json(self._batch_processors[self._indices[place]])

    @property
    def cl_socket(self) -> Any:
        """TorchServe's connection, by which a handler sends parts of answers while it computes.

        The header that tells the frontend that a stream has begun is set in the batch at once:
        else the stream of a call that fails would never end.
        """
        if self._served is not None:
            self._served.streams(self._indices)
        processors = self.__dict__.get("_request_processor") or ()
        for index, mine in zip(self._indices, processors, strict=False):
            if mine.get_response_header(STREAM_NEXT):
                self._batch_processors[index].add_response_property(STREAM_NEXT, "true")
        return raw_value(self._batch, "cl_socket")

    def only_whole(self, why: str, *, too_late: bool = False) -> None:
        """Batches stay whole from now on; see `ServedBatch.only_whole`."""
        if self._served is not None:
            self._served.only_whole(why, too_late=too_late)

    def count_by(self, size: int) -> int:
        """Let the indices of the rows begin at a multiple of `size`, for code that expects that.

        Returns which multiple: the one that a batch cut by `size` has for the first row.
        """
        number = int(self._indices[0]) // size
        places = range(number * size, number * size + len(self._indices))
        for name in ("_request_processor", "request_ids"):
            rows = getattr(self, name)
            if rows is not None:
                values = rows.values() if isinstance(rows, dict) else rows
                self.__dict__[name] = dict(zip(places, values, strict=True))
        rows = dict(zip(places, self._indices, strict=True))
        self.__dict__["_metrics"] = ViewMetrics(raw_value(self._batch, "_metrics"), rows)
        return number

    def answers_json(self, places: Sequence[int]) -> None:
        """Give these rows' answers the content type of JSON, unless a stage has set another.

        TorchServe sends none by itself. `keep` sets it in the batch, without the copy of all
        headers that setting it here would need.
        """
        self.__dict__["_json_places"] = places

    def _own_processors(self) -> list[RequestProcessor] | None:
        if self._batch_processors is None:
            return None
        processors = []
        for theirs in (self._batch_processors[index] for index in self._indices):
            processors.append(RequestProcessor(theirs.get_request_properties()))
            set_response(processors[-1], response_of(theirs))
        return processors

    def _own_request_ids(self) -> dict[int, str] | None:
        if self._batch_ids is None:
            return None
        return {place: self._batch_ids[index] for place, index in enumerate(self._indices)}

    def _own_metrics(self) -> ViewMetrics:
        return ViewMetrics(raw_value(self._batch, "_metrics"), self._indices)


MADE_AT_FIRST_USE = {
    "_request_processor": "_own_processors",
    "request_ids": "_own_request_ids",
    "_metrics": "_own_metrics",
}
"""The attributes that a view has of its own, and the methods that make them."""


def answer_part(
    answer: Callable[[list[Any], Context], list[Any]],
    data: Sequence[Any],
    context: Context,
    indices: Sequence[int],
) -> dict[int, Any]:
    """What `answer(data, context)` answers to these requests as a batch of their own, by index.

    The statuses and headers that it sets reach `context` when it returns, and not if it raises.
    """
    view = MicroBatchContext(context, indices)
    theirs = answer([data[index] for index in indices], view)
    answers = dict(zip(indices, theirs, strict=True))
    view.keep()
    return answers
