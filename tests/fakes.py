"""Stand-ins for what TorchServe hands to a handler, and small stage functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ts.context import Context, RequestProcessor

from harness.service import FakeMetrics
from harness.wire import parse
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.plan import Plan


class Plain(MicroBatchHandler):
    """Answers each request with its body."""

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return outputs


def fake_context(
    requests: int,
    *,
    headers: Sequence[Mapping[str, str]] | None = None,
    batch_size: int = 32,
    model_yaml: Mapping[str, Any] | None = None,
) -> Context:
    """A real TorchServe Context for a batch of `requests`, as `ts.service.Service` fills it."""
    context = Context(
        "model", "model_dir", {"model": {}}, batch_size, None, "0.12.0", metrics=FakeMetrics()
    )
    context.model_yaml_config = dict(model_yaml or {})
    context.request_ids = {index: f"id-{index}" for index in range(requests)}
    context.request_processor = [
        RequestProcessor(dict(headers[index]) if headers else {}) for index in range(requests)
    ]
    return context


def plan(preprocess: int, inference: int | None = None, postprocess: int | None = None) -> Plan:
    """A plan with these sizes; one number stands for all stages."""
    return Plan(preprocess, inference or preprocess, postprocess or preprocess)


def stages(
    preprocess: Callable[[Any], Any] = list,
    inference: Callable[[Any], Any] = lambda batch: batch,
    postprocess: Callable[[Any], Any] = list,
) -> dict[str, Any]:
    """Stage functions for a Pipeline from plain functions of a payload."""

    def adapt(function: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda _tag, _call, payload: (function(payload), None)

    return {
        "preprocess": adapt(preprocess),
        "inference": adapt(inference),
        "postprocess": adapt(postprocess),
    }


class ManualClock(Clock):
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._now_s = 0.0

    def now_s(self) -> float:
        return self._now_s

    def advance(self, seconds: float) -> None:
        with self._moved:
            self._now_s += seconds
            self._moved.notify_all()

    def wait(self, event: threading.Event, until_s: float | None = None) -> bool:
        """Wait for the event in real time, or for the clock to be moved to this moment."""
        while not event.is_set() and (until_s is None or self._now_s < until_s):
            with self._moved:
                self._moved.wait(0.002)
        return event.is_set()


class GateClock(ManualClock):
    """A clock that shows how many calls have begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, event: threading.Event, until_s: float | None = None) -> bool:
        self.waits.release()
        return super().wait(event, until_s)


def parse_predict_response(message: bytes) -> list[tuple[int, bytes]]:
    """The status and body of each request, as TorchServe's frontend reads them."""
    return [(answer.code, answer.body) for answer in parse(message)[2]]
