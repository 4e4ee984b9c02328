"""The Context that TorchServe hands out, made to show every call its own micro-batch.

A worker has one Context object. TorchServe's documentation advises handlers to keep it in
`initialize`; they do so under any name, in modules and in helper objects. So this very object, and
its metrics, must answer for the rows of the call that asks:

    who asks                         what it sees
    a call of a stage                the requests of its micro-batch
    the worker's thread              the batch
    a thread that a stage started    the requests of the one call that runs; where several run,
                                     nobody can know which, so the handler stays whole from then on
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import lru_cache, wraps
from types import TracebackType
from typing import Any

from ts.context import Context

__all__ = [
    "ROUTED",
    "Routes",
    "current_view",
    "metrics_lock",
    "raw_metric",
    "raw_value",
    "route",
    "routes_of",
    "viewed_by",
]

_here = threading.local()
"""`_here.view` is the (handler, view) of the stage call that runs in this thread."""

_NOBODY = (None, None)

ROUTED = frozenset({"_request_processor", "request_ids", "cl_socket"})
"""What a context says of requests."""

metrics_lock = threading.RLock()
"""TorchServe's metrics have none. Taken twice in a view of a view, which a part of a batch has."""

_ROUTES = "_micro_batch_routes"


class Routes:
    """Which views of a context are in use; shared by the copies of the context."""

    __slots__ = ("running", "thread")

    def __init__(self) -> None:
        self.running: dict[int, Any] = {}
        self.thread = 0
        """The thread that was handed the batch, and sees all of it."""


def current_view(handler: object) -> Any:
    """What `handler.context` is here: a view inside its stage calls, None elsewhere."""
    caller, view = getattr(_here, "view", _NOBODY)
    return view if caller is handler else None


class viewed_by:  # noqa: N801  (a context manager reads as a verb)
    """In the body, this view is the handler's context; a call of another handler may nest."""

    __slots__ = ("_mine", "_outer", "_running")

    def __init__(self, handler: object, view: Any) -> None:
        self._mine = (handler, view)
        # Of this batch: a call that is given up must not be taken for one of the next.
        self._running = None if view.routes is None else view.routes.running

    def __enter__(self) -> None:
        self._outer = getattr(_here, "view", _NOBODY)
        _here.view = self._mine
        if self._running is not None:
            self._running[id(self)] = self._mine[1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _here.view = self._outer
        if self._running is not None:
            del self._running[id(self)]


def route(context: Context) -> None:
    """Let this context show each call its own rows; called anew for each batch, by its thread."""
    if type(context) is Context:
        context.__class__ = RoutedContext
        vars(context)[_ROUTES] = Routes()
    routes = routes_of(context)
    if routes is None:
        return  # a view, or a class of somebody else's
    routes.running = {}
    routes.thread = threading.get_ident()
    metrics = vars(context).get("_metrics")
    if metrics is not None and _ROUTES not in getattr(metrics, "__dict__", {_ROUTES: None}):
        metrics.__class__ = _routed_metrics(type(metrics))  # type: ignore[arg-type]  # a type is
        vars(metrics)[_ROUTES] = routes


def routes_of(context: Context) -> Routes | None:
    """The views of a context, or of the one that a view belongs to; None if it is not routed."""
    routes: Routes | None = getattr(context, "__dict__", {}).get(_ROUTES)
    return routes


def raw_value(context: Context, name: str) -> Any:
    """An attribute of a context as it is for the whole batch, or of a view."""
    return vars(context)[name] if isinstance(context, RoutedContext) else getattr(context, name)


def raw_metric(metrics: Any, name: str) -> Any:
    """An attribute of TorchServe's metrics, whose indices are those of the whole batch."""
    routed = _ROUTES in getattr(metrics, "__dict__", ())
    return getattr(super(type(metrics), metrics) if routed else metrics, name)


def _own_view(routes: Routes) -> Any:
    """The view of the call that runs in this thread; None if there is none."""
    _, view = getattr(_here, "view", _NOBODY)
    return view if view is not None and view.routes is routes else None


def _view_in(routes: Routes) -> Any:
    """The view that this thread has of a context; None for the batch itself."""
    view = _own_view(routes)
    if view is not None:
        return view
    running = routes.running
    if not running or threading.get_ident() == routes.thread:
        return None
    views = list(running.values())
    if len(views) == 1:
        return views[0]
    if views:
        views[0].spoil(
            "the context is read in a thread that the handler started, where nobody can tell "
            "whose requests it means. Read it in the stage and hand on what it says"
        )
    return None


def _routed(name: str) -> property:
    def get(self: Context) -> Any:
        known = self.__dict__
        # TorchServe asks several times for each request, when no call runs any more.
        if known[_ROUTES].running:
            view = _view_in(known[_ROUTES])
            if view is not None:
                return getattr(view, name)
        try:
            return known[name]
        except KeyError:
            raise AttributeError(name) from None

    def set_(self: Context, value: Any) -> None:
        view = _own_view(vars(self)[_ROUTES])
        vars(self if view is None else view)[name] = value

    return property(get, set_)


class RoutedContext(Context):  # type: ignore[misc]  # ts is untyped
    """TorchServe's Context, whose requests are those of the call that asks."""

    _request_processor = _routed("_request_processor")
    request_ids = _routed("request_ids")
    cl_socket = _routed("cl_socket")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ROUTED:
            view = _own_view(vars(self)[_ROUTES])
            if view is not None:
                view.only_whole(f"it keeps {name} on the context, which is one for all requests")
        super().__setattr__(name, value)


@lru_cache(maxsize=8)
def _routed_metrics(kind: type) -> type:
    """A class of TorchServe's metrics whose indices are those of the call that asks."""

    def routed(name: str) -> Callable[..., Any]:
        method = getattr(kind, name)

        @wraps(method)
        def add(self: Any, *args: Any, **kwargs: Any) -> Any:
            routes = vars(self)[_ROUTES]
            view = _own_view(routes)
            if view is None and threading.get_ident() != routes.thread:
                given = inspect.signature(method).bind(self, *args, **kwargs).arguments
                view = None if given.get("idx") is None else _view_in(routes)
            if view is not None:
                return getattr(view.metrics, name)(*args, **kwargs)
            with metrics_lock:
                return method(self, *args, **kwargs)

        return add

    adds = {name: routed(name) for name in dir(kind) if name.startswith("add_")}
    return type(kind.__name__, (kind,), adds)
