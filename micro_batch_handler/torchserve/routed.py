"""The Context and metrics that TorchServe hands out, made to show every call its own rows.

A worker has one Context object. TorchServe's documentation advises handlers to keep it in
`initialize`; they do so under any name, in modules and in helper objects. So this very object, and
its metrics, must answer for the rows of the call that asks; see views.py.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

from ts.context import Context

from micro_batch_handler.torchserve.views import ROUTES, Routes, own_view, routes_of, view_in

__all__ = ["KEPT_ON_CONTEXT", "ROUTED", "ViewMetrics", "raw_value", "route"]

ROUTED = frozenset({"_request_processor", "request_ids", "cl_socket"})
"""The attributes of a context that are about requests."""

KEPT_ON_CONTEXT = "it keeps {} on the context, which is one for all requests"
"""Why batches stay whole once a stage has set an attribute of the context."""

_lock = threading.RLock()
"""TorchServe's metrics have none. Taken twice in a view of a view, which a part of a batch has."""


def route(context: Context) -> None:
    """Let a context show each call its own rows; for each batch anew, in the batch's thread."""
    if type(context) is Context:
        context.__class__ = RoutedContext
        vars(context)[ROUTES] = Routes()
    routes = routes_of(context)
    if routes is None:
        return  # a view, or a class of somebody else's
    routes.begin_batch()
    _route_metrics(vars(context).get("_metrics"), routes)


def raw_value(context: Context, name: str) -> Any:
    """An attribute of a view; or of a context, as it is for the whole batch."""
    return vars(context)[name] if isinstance(context, RoutedContext) else getattr(context, name)


def _routed(name: str) -> property:
    def get(self: Context) -> Any:
        known = self.__dict__
        # TorchServe asks several times for each request once no call runs any more.
        if known[ROUTES].running:
            view = view_in(known[ROUTES])
            if view is not None:
                return getattr(view, name)
        try:
            return known[name]
        except KeyError:
            raise AttributeError(name) from None

    def set_(self: Context, value: Any) -> None:
        view = own_view(vars(self)[ROUTES])
        vars(self if view is None else view)[name] = value

    return property(get, set_)


class RoutedContext(Context):  # type: ignore[misc]  # ts is untyped
    """TorchServe's Context, whose requests are those of the call that asks."""

    _request_processor = _routed("_request_processor")
    request_ids = _routed("request_ids")
    cl_socket = _routed("cl_socket")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ROUTED:
            view = own_view(vars(self)[ROUTES])
            if view is not None:
                view.only_whole(KEPT_ON_CONTEXT.format(name))
        super().__setattr__(name, value)


class ViewMetrics:
    """TorchServe's metrics for one micro-batch: safe in any thread, indices are the micro-batch's.

    TorchServe's cache has no lock, and its `dimensions=[]` defaults are lists that it appends to
    (ts/metrics/metric_cache_abstract.py): two first callers would add a dimension twice, and that
    metric would fail for ever.

    Args:
        cache: the batch's metrics, or those of a view.
        indices: the place in the batch for each index that the micro-batch uses.
    """

    def __init__(self, cache: Any, indices: Sequence[int] | Mapping[int, int]) -> None:
        self._cache = cache
        self._indices = indices

    def __getattr__(self, name: str) -> Any:
        method = _raw_metric(self._cache, name)
        if not (name.startswith("add_") and callable(method)):
            return method

        @wraps(method)
        def add(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(method).bind(*args, **kwargs).arguments
            if isinstance(given.get("idx"), int):
                given["idx"] = self._indices[given["idx"]]
            if name != "add_metric_to_cache":
                given["dimensions"] = list(given.get("dimensions", []))
            with _lock:
                return method(**given)

        return add


def _route_metrics(metrics: Any, routes: Routes) -> None:
    """Let the metrics of a context count for the rows of the call that uses them."""
    if metrics is not None and ROUTES not in getattr(metrics, "__dict__", {ROUTES: None}):
        metrics.__class__ = _routed_metrics(type(metrics))  # type: ignore[arg-type]  # a type is
        vars(metrics)[ROUTES] = routes


@lru_cache(maxsize=8)
def _routed_metrics(kind: type) -> type:
    """A class of TorchServe's metrics, made to use the indices of the call that asks."""

    def routed(name: str) -> Callable[..., Any]:
        method = getattr(kind, name)

        @wraps(method)
        def add(self: Any, *args: Any, **kwargs: Any) -> Any:
            routes = vars(self)[ROUTES]
            view = own_view(routes)
            if view is None and not routes.is_batchs_thread():
                given = inspect.signature(method).bind(self, *args, **kwargs).arguments
                view = None if given.get("idx") is None else view_in(routes)
            if view is not None:
                return getattr(view.metrics, name)(*args, **kwargs)
            with _lock:
                return method(self, *args, **kwargs)

        return add

    adds = {name: routed(name) for name in dir(kind) if name.startswith("add_")}
    return type(kind.__name__, (kind,), adds)


def _raw_metric(metrics: Any, name: str) -> Any:
    """An attribute of TorchServe's metrics, whose indices are those of the whole batch."""
    is_routed = ROUTES in getattr(metrics, "__dict__", ())
    return getattr(super(type(metrics), metrics) if is_routed else metrics, name)
