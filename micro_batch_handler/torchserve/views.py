"""Which rows of the batch each thread sees in the one Context that a worker has.

    who asks                         what it sees
    a call of a stage                the requests of its micro-batch
    the worker's thread              the batch
    a thread that a stage started    the requests of the one call that runs

If several calls run, nobody can tell which one such a thread belongs to, and batches stay whole.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from ts.context import Context

__all__ = [
    "ROUTES",
    "Routes",
    "context_set_here",
    "current_view",
    "in_this_view",
    "own_view",
    "routes_of",
    "set_context_here",
    "view_in",
    "viewed_by",
]

_here = threading.local()
"""`_here.view` is the (handler, view) of the stage call that runs in this thread, `_here.batch_of`
the routes of the batch that this thread was handed, and `_here.context` the (handler, context) that
this thread has set last, the handler as a weak reference."""

_NOBODY = (None, None)

_UNSET = (lambda: None, None)
"""In place of a weak reference to a handler, and its context."""

ROUTES = "_micro_batch_routes"
"""The attribute in which a context, its views and its metrics have their `Routes`."""


class Routes:
    """The views of a context that are in use; copies of the context share them."""

    __slots__ = ("running", "several_batches")

    def __init__(self) -> None:
        self.running: dict[int, Any] = {}
        self.several_batches = False
        """Whether batches are under way at once, each in a thread and with a copy of its own."""

    def begin_batch(self) -> None:
        """The calling thread was handed a batch, and sees all of it from now on."""
        _here.batch_of = self
        if not self.several_batches:
            self.running = {}

    def is_batchs_thread(self) -> bool:
        """Whether the calling thread was handed a batch."""
        return getattr(_here, "batch_of", None) is self


def current_view(handler: object) -> Any:
    """The view that is `handler.context` inside a stage call; None elsewhere."""
    caller, view = getattr(_here, "view", _NOBODY)
    return view if caller is handler else None


def set_context_here(handler: object, context: Context) -> None:
    """The calling thread sets `handler.context`."""
    _here.context = (weakref.ref(handler), context)


def context_set_here(handler: object) -> Any:
    """What the calling thread has set as `handler.context`; None if nothing, or for another."""
    setter, context = getattr(_here, "context", _UNSET)
    return context if setter() is handler else None


class viewed_by:  # noqa: N801  (a context manager reads as a verb)
    """In its body, `view` is the handler's context. A call of another handler may nest."""

    __slots__ = ("_mine", "_outer", "_running")

    def __init__(self, handler: object, view: Any) -> None:
        self._mine = (handler, view)
        # Of this batch: a call that is given up must not be taken for one of the next.
        routes = routes_of(view)
        self._running = {} if routes is None else routes.running

    def __enter__(self) -> None:
        self._outer = getattr(_here, "view", _NOBODY)
        _here.view = self._mine
        self._running[id(self)] = self._mine[1]

    def __exit__(self, *_: object) -> None:
        _here.view = self._outer
        del self._running[id(self)]


def in_this_view(function: Callable[[], Any]) -> Callable[[], Any]:
    """The function, which sees what this thread sees now, whichever thread calls it."""
    mine, context = getattr(_here, "view", _NOBODY), getattr(_here, "context", _UNSET)

    def call() -> Any:
        outer, before = getattr(_here, "view", _NOBODY), getattr(_here, "context", _UNSET)
        _here.view, _here.context = mine, context
        try:
            return function()
        finally:
            _here.view, _here.context = outer, before

    return call


def routes_of(context: Context) -> Routes | None:
    """The routes of a context, or of the one that a view belongs to; None if it is not routed."""
    routes: Routes | None = getattr(context, "__dict__", {}).get(ROUTES)
    return routes


def own_view(routes: Routes) -> Any:
    """The view of the call that runs in this thread; None if there is none."""
    _, view = getattr(_here, "view", _NOBODY)
    return view if view is not None and routes_of(view) is routes else None


def view_in(routes: Routes) -> Any:
    """The view of a context that this thread has; None if it sees the whole batch."""
    view = own_view(routes)
    if view is not None:
        return view
    running = routes.running
    if not running or routes.is_batchs_thread():
        return None
    views = list(running.values())
    if len(views) == 1:
        return views[0]
    if views:
        views[0].only_whole(
            "the context is read in a thread that the handler started, where nobody can tell "
            "whose requests it means. Read it in the stage and hand on what it says",
            too_late=True,
        )
    return None
