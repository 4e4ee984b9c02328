"""TorchServe's metrics as the calls of stages see them: locked, with the indices of their rows."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any

from micro_batch_handler.torchserve.views import ROUTES, Routes, own_view, view_in

__all__ = ["ViewMetrics", "route_metrics"]

_lock = threading.RLock()
"""TorchServe's metrics have none. Taken twice in a view of a view, which a part of a batch has."""


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


def route_metrics(metrics: Any, routes: Routes) -> None:
    """Let the metrics of a context count for the rows of the call that uses them."""
    if metrics is not None and ROUTES not in getattr(metrics, "__dict__", {ROUTES: None}):
        metrics.__class__ = _routed(type(metrics))  # type: ignore[arg-type]  # a type is
        vars(metrics)[ROUTES] = routes


@lru_cache(maxsize=8)
def _routed(kind: type) -> type:
    """A class of TorchServe's metrics, made to use the indices of the call that asks."""

    def routed(name: str) -> Callable[..., Any]:
        method = getattr(kind, name)

        @wraps(method)
        def add(self: Any, *args: Any, **kwargs: Any) -> Any:
            routes = vars(self)[ROUTES]
            view = own_view(routes)
            if view is None and threading.get_ident() != routes.thread:
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
