"""The handler: TorchServe's BaseHandler with its three stages run at the same time.

class Handler(MicroBatchHandler)       or class Handler(MicroBatchMixin, ImageClassifier)
  initialize(context)                  the class's own; then settings are checked and lanes start
  handle(data, context)                in TorchServe's worker thread; see engine.py
    preprocess, inference, postprocess   in lanes, on some rows of the batch at a time
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial, wraps
from inspect import isfunction
from typing import Any

from ts.context import Context
from ts.service import Service
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline.payloads.operations import Payload, cut, join
from micro_batch_handler.torchserve.beside import answer_apart, asking_beside
from micro_batch_handler.torchserve.engine import Engine
from micro_batch_handler.torchserve.hooks import HOOKS, hook_of, payload_ops
from micro_batch_handler.torchserve.responses import end_streams
from micro_batch_handler.torchserve.routed import route
from micro_batch_handler.torchserve.sharing import in_host, leave_host, member_of
from micro_batch_handler.torchserve.views import (
    context_set_here,
    current_view,
    in_this_view,
    set_context_here,
)

__all__ = ["MicroBatchHandler", "MicroBatchMixin", "engine_of"]

_creating = threading.Lock()


def _then_start(initialize: Callable[..., None]) -> Callable[..., None]:
    """Check the settings and start the lanes when the outermost `initialize` returns."""

    @wraps(initialize)
    def initialize_then_start(self: MicroBatchMixin, *args: Any, **kwargs: Any) -> None:
        outermost = not self.__dict__.get("_micro_batch_loading")
        self.__dict__["_micro_batch_loading"] = True
        if not outermost or in_host():
            initialize(self, *args, **kwargs)
            return
        (context,) = args[:1] or kwargs.values()
        route(context)
        try:
            MicroBatchMixin.close(self)  # not a `close` of the user's
            member = member_of(self, context)
            if member is None:
                initialize(self, *args, **kwargs)
            else:
                hook = hook_of(self, "initialize_member", MicroBatchMixin)
                member.initialize(hook or partial(initialize, self), context)
        finally:
            del self.__dict__["_micro_batch_loading"]
        self._micro_batch_engine_for(context)

    return initialize_then_start


class MicroBatchMixin:
    """Put in front of any handler class: `class H(MicroBatchMixin, ImageClassifier)`.

    The class keeps its three methods:

        preprocess(data)       k rows, each a dict as TorchServe gives it -> a payload of k
        inference(batch)       a payload of k -> a payload of k
        postprocess(outputs)   a payload of k -> a list of k answers

    They run in several threads at once, on k rows of a batch at a time; `self.context` inside them
    is the view of these k rows. Settings come from the `micro_batching:` section of
    model-config.yaml; see `micro_batch_handler.config`.

    A class may override `__init__` and `initialize` without calling those of its bases: settings
    are checked and lanes are started when its `initialize` returns, or at the first batch.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = cls.__mro__
        if BaseHandler in bases and bases.index(MicroBatchMixin) > bases.index(BaseHandler):
            raise TypeError(
                f"{cls.__name__}: MicroBatchMixin must come first, as in "
                f"class {cls.__name__}(MicroBatchMixin, ...); behind a handler it has no effect"
            )
        if isfunction(cls.__dict__.get("initialize")):
            cls.initialize = _then_start(cls.initialize)  # type: ignore[method-assign]
        if "context" in cls.__dict__:
            # `context = None` in a class would hide the property, and with it the views.
            del cls.context
        for hook in (*HOOKS, "close"):
            # The hook of a class beside the mixin counts, although the mixin comes first.
            ours = vars(MicroBatchMixin)[hook]
            theirs = [vars(kind)[hook] for kind in bases if hook in vars(kind)]
            if getattr(cls, hook) is ours and len(theirs) > 1:
                setattr(cls, hook, theirs[1])

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """An object of the class.

        Raises:
            ConfigError: the class is abstract; Python's own TypeError ends the worker unanswered.
        """
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        if missing:
            raise ConfigError(
                f"{cls.__name__} is abstract, so there can be no object of it; write "
                f"{', '.join(missing)} in it, without @abstractmethod"
            )
        make = super().__new__
        return make(cls) if make is object.__new__ else make(cls, *args, **kwargs)

    @_then_start
    def initialize(self, context: Context) -> None:
        """Load the model as the class beside this one does.

        Raises:
            ConfigError: a setting in model-config.yaml cannot work.
        """
        super().initialize(context)  # type: ignore[misc]

    def handle(self, data: list[Any], context: Context) -> list[Any]:
        """Answer a batch: one entry of the result for each row of `data`.

        The class beside this one answers describe and explain requests, and some others; see
        beside.py.
        """
        # An envelope around the handler, or a `handle` of the user's, reads the answers first.
        encoded = sys._getframe(1).f_code is Service.predict.__code__  # noqa: SLF001
        return self._micro_batch_answers(data, context, encoded=encoded)

    def _micro_batch_answers(
        self, data: list[Any], context: Context, *, encoded: bool
    ) -> list[Any]:
        """The answers of `handle`; `encoded` as TorchServe sends them if nobody else reads them."""
        started = time.time()
        route(context)
        self.context = context
        engine = self._micro_batch_engine_for(context)
        own_handle: Any = getattr(super(), "handle", None)  # the class beside may be no handler

        def beside(data: list[Any], context: Context) -> list[Any]:
            rows = engine.decoded(data, context)
            if engine.hosted_handle is not None:
                return engine.hosted_handle(rows, context)
            call = in_this_view(partial(own_handle, rows, context))
            answers: list[Any] = engine.call_alone(call)
            return answers

        asking = {} if own_handle is None else asking_beside(context, len(data))
        if asking is None:
            answers = beside(data, context)
            end_streams(context)
            return answers
        usual = partial(engine.answers, encoded=encoded)
        if asking:
            answers = answer_apart(data, context, asking, beside, usual, engine.fault_log)
            self.context = context
        else:
            answers = usual(data, context)
        end_streams(context)
        context.metrics.add_time("HandlerTime", round((time.time() - started) * 1000, 2), None)
        return answers

    def cut_payload(self, payload: Payload, start: int, stop: int) -> Payload:
        """Rows `start` to `stop` of what a stage returned.

        Override this and `join_payloads` together for a payload of your own type. Lengths between
        stages are then yours to check.
        """
        return cut(payload, start, stop)

    def join_payloads(self, payloads: Sequence[Payload]) -> Payload:
        """One payload from several that a stage returned, in order (to pad them, for example)."""
        return join(payloads)

    def group_by(self, payload: Payload) -> Sequence[Hashable] | None:  # noqa: ARG002
        """A key for each row of what `preprocess` returned, such as its shape; None for no keys.

        Override it if some rows cannot share a call: inference and postprocess are then called
        apart for each key. The plan and the keys decide which rows share a call. Payloads must be
        such that they can be cut and joined.
        """
        return None

    def example_row(self) -> Any:
        """One request as `preprocess` gets it, `{"body": …}`; None if there is no example.

        Override it together with `allowed_sizes` or `pt2`: every size is then called when the model
        loads, so that no request waits for what a first call prepares.
        """
        return None

    def initialize_member(self, context: Context) -> None:
        """With `share_model`, what a worker calls in place of `initialize`.

        Override it if `initialize` reads weights by itself: load here what the stages need that
        run in the worker, without the model. By default a worker calls `initialize`, where
        BaseHandler's own loading gives a placeholder.
        """
        self.initialize(context)

    def close(self) -> None:
        """End the lanes. A second call does nothing; the next batch starts them again."""
        engine: Engine | None = self.__dict__.pop("_micro_batch_engine", None)
        if engine is not None:
            engine.close()
        leave_host(self)

    @property
    def context(self) -> Context:
        """The micro-batch's context inside a stage, the calling thread's batch's elsewhere."""
        return current_view(self) or context_set_here(self) or self.__dict__.get("context")

    @context.setter
    def context(self, context: Context) -> None:
        self.__dict__["context"] = context
        set_context_here(self, context)

    def _micro_batch_engine_for(self, context: Context) -> Engine:
        engine: Engine | None = self.__dict__.get("_micro_batch_engine")
        if engine is None:
            with _creating:
                example_row = hook_of(self, "example_row", MicroBatchMixin)
                engine = self.__dict__.get("_micro_batch_engine") or Engine(
                    self, payload_ops(self, MicroBatchMixin), context, example_row
                )
                self.__dict__["_micro_batch_engine"] = engine
        return engine


class MicroBatchHandler(MicroBatchMixin, BaseHandler):  # type: ignore[misc]  # ts is untyped
    """`BaseHandler` with micro-batching: subclass it as you would subclass `BaseHandler`."""


def engine_of(handler: MicroBatchMixin, context: Context) -> Engine:
    """The engine that serves a handler; if it has none, one is made for the settings in `context`.

    This is a function, since a method could hide one of the user's.
    """
    return handler._micro_batch_engine_for(context)  # noqa: SLF001
