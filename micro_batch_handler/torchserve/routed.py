"""The Context that TorchServe hands out, made to show every call its own micro-batch.

A worker has one Context object. TorchServe's documentation advises handlers to keep it in
`initialize`; they do so under any name, in modules and in helper objects. So this very object, and
its metrics, must answer for the rows of the call that asks; see views.py.
"""

from __future__ import annotations

import threading
from typing import Any

from ts.context import Context

from micro_batch_handler.torchserve.view_metrics import route_metrics
from micro_batch_handler.torchserve.views import ROUTES, Routes, own_view, routes_of, view_in

__all__ = ["KEPT_ON_CONTEXT", "ROUTED", "raw_value", "route"]

ROUTED = frozenset({"_request_processor", "request_ids", "cl_socket"})
"""The attributes of a context that are about requests."""

KEPT_ON_CONTEXT = "it keeps {} on the context, which is one for all requests"
"""Why batches stay whole once a stage has set an attribute of the context."""


def route(context: Context) -> None:
    """Let a context show each call its own rows; for each batch anew, in the batch's thread."""
    if type(context) is Context:
        context.__class__ = RoutedContext
        vars(context)[ROUTES] = Routes()
    routes = routes_of(context)
    if routes is None:
        return  # a view, or a class of somebody else's
    routes.running = {}
    routes.thread = threading.get_ident()
    route_metrics(vars(context).get("_metrics"), routes)


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
