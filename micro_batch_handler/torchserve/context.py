"""The batch's Context as one micro-batch sees it: index 0 is the micro-batch's first row.

What a call sets (status, headers) is written to the batch only if the call's result counts, so a
call that fails leaves no trace on the requests it shared a micro-batch with.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol

from ts.context import Context, RequestProcessor

from micro_batch_handler.torchserve.faults import STATUSES, STREAM_NEXT, clean_phrase
from micro_batch_handler.torchserve.routed import (
    ROUTED,
    Routes,
    metrics_lock,
    raw_metric,
    raw_value,
    routes_of,
)

__all__ = ["MicroBatchContext", "answer_part"]


class Batch(Protocol):
    """What a view asks of the batch that it belongs to."""

    def only_whole(self, why: str) -> None:
        """The handler does what it can do with whole batches only."""

    def spoil(self, why: str) -> None:
        """It has done so already: nothing of this batch may be sent, if it is cut."""

    def streams(self, indices: Sequence[int]) -> None:
        """The handler is about to send a part of these requests' answers."""


class MicroBatchContext(Context):  # type: ignore[misc]  # ts is untyped
    """A view of `batch` for the requests at `indices`.

    TorchServe's own methods work on it unchanged, since they read `request_ids`,
    `_request_processor` and `_metrics`, which are made for the micro-batch at first use;
    everything else is the batch's.
    """

    def __init__(self, batch: Context, indices: Sequence[int], asked: Batch | None = None) -> None:
        # Not calling Context.__init__: a missing attribute is what leads to __getattr__.
        self.__dict__["_batch"] = batch
        self.__dict__["_indices"] = indices
        self.__dict__["_asked"] = asked
        # TorchServe uses one Context for all batches: a call that is given up and goes on must not
        # see the next batch's requests in it, nor write to them.
        self.__dict__["_batch_processors"] = raw_value(batch, "_request_processor")
        self.__dict__["_batch_ids"] = raw_value(batch, "request_ids")
        self.__dict__["_json_places"] = ()
        self.__dict__["_micro_batch_routes"] = routes_of(batch)

    def __getattr__(self, name: str) -> Any:
        if name == "_request_processor":
            return self._first_made(name, self._own_processors())
        if name == "request_ids":
            return self._first_made(name, self._own_request_ids())
        if name == "_metrics":
            return self._first_made(
                name, _LaneMetrics(raw_value(self._batch, "_metrics"), self._indices)
            )
        if name.startswith("__") or "_batch" not in self.__dict__:
            raise AttributeError(name)  # as copy and pickle expect of a bare object
        return getattr(self._batch, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ROUTED or name == "_metrics":
            self.__dict__[name] = value
            return
        # Where nothing is cut, a handler may leave something there for its next stage.
        self.only_whole(f"it keeps {name} on the context, which is one for all requests")
        setattr(self._batch, name, value)

    def keep(self) -> None:
        """Write statuses and response headers to the batch.

        Raises:
            ValueError: one of them would break the worker protocol, and so the whole batch.
        """
        processors = self.__dict__.get("_request_processor")
        if isinstance(processors, dict):  # as `count_from` makes it
            processors = list(processors.values())
        if processors is not None:  # else never asked for, so nothing was set
            self._keep_responses(processors)
        if self._batch_processors is not None:
            for place in self._json_places:
                _declare_json(self._batch_processors[self._indices[place]])

    @property
    def routes(self) -> Routes | None:
        """Which views of the worker's context are in use."""
        return routes_of(self)

    @property
    def cl_socket(self) -> Any:
        """TorchServe's connection, by which a handler sends parts of answers while it computes.

        What tells the frontend that a stream has begun must reach the batch at once, or a stream
        would never end whose call fails.
        """
        if self._asked is not None:
            self._asked.streams(self._indices)
        processors = self.__dict__.get("_request_processor") or ()
        for index, mine in zip(self._indices, processors, strict=False):
            if mine.get_response_header(STREAM_NEXT):
                self._batch_processors[index].add_response_property(STREAM_NEXT, "true")
        return raw_value(self._batch, "cl_socket")

    def only_whole(self, why: str) -> None:
        """The handler does what it can do with whole batches only.

        Raises:
            SplitError: this call has a part of a batch.
        """
        if self._asked is not None:
            self._asked.only_whole(why)

    def spoil(self, why: str) -> None:
        """The same, found out when it was too late to raise an error."""
        if self._asked is not None:
            self._asked.spoil(why)

    @property
    def first(self) -> int:
        """The place of the first row in the batch."""
        return int(self._indices[0])

    def count_from(self, start: int) -> None:
        """Let the indices of the rows begin at `start` instead of 0, for code that expects that."""
        places = range(start, start + len(self._indices))
        for name in ("_request_processor", "request_ids"):
            rows = getattr(self, name)
            if rows is not None:
                values = rows.values() if isinstance(rows, dict) else rows
                self.__dict__[name] = dict(zip(places, values, strict=True))
        rows = dict(zip(places, self._indices, strict=True))
        self.__dict__["_metrics"] = _LaneMetrics(raw_value(self._batch, "_metrics"), rows)

    def answers_json(self, places: Sequence[int]) -> None:
        """Let these rows' answers say that they are JSON, unless a stage has set a content type.

        TorchServe sends none of itself. Cheaper than setting it here, which needs a copy of all
        that the requests have set.
        """
        self.__dict__["_json_places"] = places

    def _keep_responses(self, processors: Sequence[RequestProcessor]) -> None:
        checked = [(mine, _checked_phrase(mine)) for mine in processors]
        for index, (mine, phrase) in zip(self._indices, checked, strict=True):
            theirs = self._batch_processors[index]
            theirs.report_status(mine.get_response_status_code(), phrase)
            headers = theirs.get_response_headers()
            headers.clear()
            headers.update(mine.get_response_headers())

    def _first_made(self, name: str, value: Any) -> Any:
        """What the first to ask has made: of a part of a batch, several lanes may ask at once."""
        return self.__dict__.setdefault(name, value)

    def _own_processors(self) -> list[RequestProcessor] | None:
        theirs = self._batch_processors
        if theirs is None:
            return None
        return [_copy(theirs[index]) for index in self._indices]

    def _own_request_ids(self) -> dict[int, str] | None:
        theirs = self._batch_ids
        if theirs is None:
            return None
        return {place: theirs[index] for place, index in enumerate(self._indices)}


def answer_part(
    answer: Callable[[list[Any], Context], list[Any]],
    data: Sequence[Any],
    context: Context,
    indices: Sequence[int],
) -> dict[int, Any]:
    """By index, what `answer(data, context)` answers to these requests as a batch of their own.

    What it sets for them is in the whole batch's context when it returns, and not if it raises.
    """
    view = MicroBatchContext(context, indices)
    theirs = answer([data[index] for index in indices], view)
    answers = dict(zip(indices, theirs, strict=True))
    view.keep()
    return answers


def _copy(processor: RequestProcessor) -> RequestProcessor:
    copy = RequestProcessor(processor.get_request_properties())
    copy.report_status(processor.get_response_status_code(), processor.get_response_status_phrase())
    copy.get_response_headers().update(processor.get_response_headers())
    return copy


def _declare_json(processor: RequestProcessor) -> None:
    headers = processor.get_response_headers()
    if not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = "application/json"


def _checked_phrase(processor: RequestProcessor) -> str | None:
    """The status's phrase, once all that goes with it is found fit to send.

    What is not would end TorchServe's worker or Netty's thread, for the whole batch.
    """
    code = processor.get_response_status_code()
    if not isinstance(code, int) or code not in STATUSES:
        raise ValueError(f"a response status must be a number from 200 to 599, found {code!r}")
    for name, value in processor.get_response_headers().items():
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a response header")
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"response header {name} must be one line of text, found {value!r}")
    content_type = processor.get_response_header("content-type")
    if content_type is not None and not content_type.isascii():
        # Its length is sent in characters, the text in bytes.
        raise ValueError(f"the response's content type must be ASCII, found {content_type!r}")
    phrase = processor.get_response_status_phrase()
    return phrase if phrase is None else clean_phrase(phrase)


HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""https://www.rfc-editor.org/rfc/rfc9110#name-tokens"""


class _LaneMetrics:
    """TorchServe's metrics, safe to use from lanes and with the micro-batch's own indices.

    The cache has no lock, and its `dimensions=[]` defaults are lists that it appends to
    (ts/metrics/metric_cache_abstract.py): two first callers would add a dimension twice, and that
    metric would fail for ever.
    """

    def __init__(self, cache: Any, indices: Sequence[int] | Mapping[int, int]) -> None:
        self._cache = cache
        self._indices = indices

    def __getattr__(self, name: str) -> Any:
        method = raw_metric(self._cache, name)
        if not (name.startswith("add_") and callable(method)):
            return method

        @wraps(method)
        def add(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(method).bind(*args, **kwargs).arguments
            if isinstance(given.get("idx"), int):
                given["idx"] = self._indices[given["idx"]]
            if name != "add_metric_to_cache":
                given["dimensions"] = list(given.get("dimensions", []))
            with metrics_lock:
                return method(**given)

        return add
