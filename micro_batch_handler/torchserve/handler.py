"""The handler: TorchServe's BaseHandler with its three stages run at the same time.

handle(data, context)    TorchServe's worker thread
  plan, cut, run         the engine (micro_batch_handler/pipeline)
  stage calls            preprocess, inference, postprocess of the user's class, in lanes
  answer_failures        a body and a status for each request that failed
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

from micro_batch_handler.config import STAGES, MicroBatchingConfig, Stage
from micro_batch_handler.pipeline import batches
from micro_batch_handler.pipeline.batches import Payload, PayloadOps
from micro_batch_handler.pipeline.isolation import Policy
from micro_batch_handler.pipeline.planner import fixed_plan
from micro_batch_handler.pipeline.runner import Pipeline
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.pipeline.thread_state import ThreadState
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.torchserve.codec import encode
from micro_batch_handler.torchserve.context import MicroBatchContext
from micro_batch_handler.torchserve.deadlines import deadlines_s
from micro_batch_handler.torchserve.faults import answer_failures, raise_first
from micro_batch_handler.torchserve.worker_exit import end_worker

__all__ = ["MicroBatchHandler", "MicroBatchMixin"]

logger = logging.getLogger(__name__)

_creating = threading.Lock()
_calling = threading.local()
"""`_calling.view` is the (handler, context) of the stage call that runs in this thread."""


def _then_start(initialize: Callable[..., None]) -> Callable[..., None]:
    """Start the lanes when the outermost `initialize` of a handler returns."""

    @wraps(initialize)
    def initialize_then_start(self: MicroBatchMixin, context: Context) -> None:
        outermost = not self.__dict__.get("_micro_batch_loading")
        self.__dict__["_micro_batch_loading"] = True
        try:
            initialize(self, context)
        finally:
            if outermost:
                del self.__dict__["_micro_batch_loading"]
        if outermost:
            self.close()
            self._engine(context)

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
        if "initialize" in cls.__dict__:
            cls.initialize = _then_start(cls.initialize)  # type: ignore[method-assign]

    @_then_start
    def initialize(self, context: Context) -> None:
        """Load the model as the class beside this one does.

        Raises:
            ConfigError: a setting in model-config.yaml cannot work.
        """
        super().initialize(context)  # type: ignore[misc]

    def handle(self, data: list[Any], context: Context) -> list[Any]:
        """Answer a batch: one entry of the result for each row of `data`.

        Describe and explain requests and TorchServe's profiler take the unsplit path of the class
        beside this one.
        """
        started = time.time()
        self.context = context
        if self._takes_unsplit_path():
            unsplit: list[Any] = super().handle(data, context)  # type: ignore[misc]
            return unsplit
        answers = self._engine(context).answers(data, context)
        context.metrics.add_time("HandlerTime", round((time.time() - started) * 1000, 2), None)
        return answers

    def cut_payload(self, payload: Payload, start: int, stop: int) -> Payload:
        """Rows `start` to `stop` of what a stage returned.

        Override this and `join_payloads` together for a payload of your own type. Lengths between
        stages are then yours to check.
        """
        return batches.cut(payload, start, stop)

    def join_payloads(self, payloads: Sequence[Payload]) -> Payload:
        """One payload from several that a stage returned, in order (to pad them, for example)."""
        return batches.join(payloads)

    def close(self) -> None:
        """End the lanes. A second call does nothing; the next batch starts them again."""
        engine: _Engine | None = self.__dict__.pop("_micro_batch_engine", None)
        if engine is not None:
            engine.pipeline.close()

    @property
    def context(self) -> Context:
        """The micro-batch's context inside a stage, the batch's elsewhere."""
        handler, view = getattr(_calling, "view", (None, None))
        return view if handler is self else self.__dict__.get("context")

    @context.setter
    def context(self, context: Context) -> None:
        self.__dict__["context"] = context

    def _engine(self, context: Context) -> _Engine:
        engine: _Engine | None = self.__dict__.get("_micro_batch_engine")
        if engine is None:
            with _creating:
                engine = self.__dict__.get("_micro_batch_engine") or _Engine(self, context)
                self.__dict__["_micro_batch_engine"] = engine
        return engine

    def _takes_unsplit_path(self) -> bool:
        return bool(
            os.environ.get("ENABLE_TORCH_PROFILER")
            or self._is_describe()  # type: ignore[attr-defined]
            or self._is_explain()  # type: ignore[attr-defined]
        )


class MicroBatchHandler(MicroBatchMixin, BaseHandler):  # type: ignore[misc]  # ts is untyped
    """`BaseHandler` with micro-batching: subclass it as you would subclass `BaseHandler`."""


class _Engine:
    """What one handler needs to run batches: its settings, its plan and its pipeline."""

    def __init__(self, handler: MicroBatchMixin, context: Context) -> None:
        model_yaml = getattr(context, "model_yaml_config", None)
        self.config = MicroBatchingConfig.from_model_yaml(model_yaml)
        batch_size = context.system_properties.get("batch_size") or 1
        self.plan = fixed_plan(self.config, batch_size)
        self.clock = Clock()
        self.pipeline = Pipeline(
            {stage: _stage_function(handler, stage) for stage in STAGES},
            self.config.parallelism,
            ops=_payload_ops(handler),
            lane_setup=ThreadState.capture().apply,
            policy=Policy(self.config.on_error == "isolate", deliberate=(PredictionException,)),
            stage_timeout_s=self.config.stage_timeout,
            clock=self.clock,
        )
        _warn_if_serial(self.config, self.plan.fits(batch_size), batch_size, model_yaml or {})
        logger.info("micro-batching %s, parallelism %s", self.plan.sizes, self.config.parallelism)

    def answers(self, data: list[Any], context: Context) -> list[Any]:
        deadlines = deadlines_s(context, len(data), self.config.deadline_header, self.clock.now_s())
        outcomes = self.pipeline.run(data, self.plan, context, deadlines)
        if outcomes.fatal:
            end_worker(context)
        if not outcomes.failures:
            return outcomes.answers
        if self.config.on_error == "fail_batch":
            raise_first(outcomes)
        return answer_failures(outcomes, context)


def _stage_function(handler: MicroBatchMixin, stage: Stage) -> StageFunction:
    def call(
        batch_context: Context, indices: Sequence[int], payload: Payload
    ) -> tuple[Payload, Keep]:
        view = MicroBatchContext(batch_context, indices)
        outer = getattr(_calling, "view", (None, None))
        _calling.view = (handler, view)
        try:
            # Looked up at each call, since handlers may replace a stage on the instance.
            method: Callable[[Payload], Payload] = getattr(handler, stage)
            result = method(payload)
        finally:
            _calling.view = outer
        if stage == STAGES[-1] and isinstance(result, list):
            result = [encode(answer) for answer in result]
        return result, view.keep

    return call


def _payload_ops(handler: MicroBatchMixin) -> PayloadOps:
    """The handler's hooks; with hooks of its own, only they know how many rows a payload has."""
    kind = type(handler)
    own = (
        kind.cut_payload is not MicroBatchMixin.cut_payload
        or kind.join_payloads is not MicroBatchMixin.join_payloads
    )
    return PayloadOps(
        (lambda _: None) if own else batches.count,
        (lambda _: None) if own else batches.rows_of,
        handler.cut_payload,
        handler.join_payloads,
    )


def _warn_if_serial(
    config: MicroBatchingConfig, fits: bool, batch_size: int, model_yaml: dict[str, Any]
) -> None:
    """Say at load which settings leave nothing to overlap."""
    if batch_size == 1:
        logger.warning("batchSize is 1: nothing can overlap. Set batchSize in model-config.yaml")
    elif fits:
        logger.warning(
            "micro_batching.micro_batch_size %s holds a whole batch of %d in every stage: nothing "
            "can overlap. Set it below batchSize",
            config.micro_batch_size,
            batch_size,
        )
    if (model_yaml.get("handler") or {}).get("profile"):
        logger.warning(
            "handler.profile: true waits for the device after every stage call, which undoes the "
            "overlap. Remove it from model-config.yaml to serve"
        )
