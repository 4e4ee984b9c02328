"""Five handlers with payloads of different kinds, and the answers they must give."""

from __future__ import annotations

import json
import random
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
import ts
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from benchmarks.soak.troubles import (
    BATCH_SIZE,
    PATIENCE_S,
    RAISED,
    RETURNED,
    SECRET,
    STAGE_TIMEOUT_S,
    UNENCODABLE,
    Trouble,
    recurse,
)
from harness.service import service_of
from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import STAGES


class Opaque:
    """A payload that can be neither counted nor cut."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers


class Soaked(MicroBatchHandler):  # type: ignore[misc]  # ts is untyped
    """Computes 3 n + 1, with the faults of the batch's `trouble`."""

    payload: type = list

    thread_safe = True  # its stages share `trouble` on purpose

    def __init__(self) -> None:
        super().__init__()
        self.trouble = Trouble()
        self.gate = threading.Event()
        self._once = threading.Lock()

    def initialize(self, context: Any) -> None:
        """There is no model."""

    def preprocess(self, data: list[dict[str, Any]]) -> Any:
        """Rows with a body {"n": number} -> numbers."""
        return self._pass("preprocess", [row["body"]["n"] for row in data], 1)

    def inference(self, batch: Any) -> Any:
        """Numbers n -> values 3 n + 1."""
        numbers = self._unwrapped(batch)
        if len(numbers) > self.trouble.capacity:
            raise MemoryError(SECRET)
        return self._pass("inference", [3 * number + 1 for number in numbers], 3)

    def postprocess(self, outputs: Any) -> Any:
        """Values -> answers, some with a status and a header of their own."""
        values = self._unwrapped(outputs)
        result = self._pass("postprocess", values, 3)
        if not isinstance(result, list):
            return result
        answers = []
        for place, value in enumerate(result):
            number = value // 3
            if number % 3 == 0 and place < len(values):
                self.context.set_response_header(place, "x-n", str(number))
            if number % 11 == 0 and place < len(values):
                self.context.set_response_status(201, "Made\r\nit", place)
            fault = self.trouble.faults.get(number)
            if fault is not None and fault.kind in UNENCODABLE:
                answers.append(UNENCODABLE[fault.kind]())
            else:
                answers.append(right_answer(number))
        return answers

    def _pass(self, stage: str, rows: list[int], factor: int) -> Any:
        """The rows in this handler's kind of payload, or a fault of `trouble`."""
        trouble, gate = self.trouble, self.gate
        numbers = [row // factor for row in rows]
        if trouble.once is not None and trouble.once[0] == stage:
            with self._once:
                once, trouble.once = trouble.once, None
            if once is not None:
                error = RAISED[once[1]]()
                raise error
        if trouble.hang is not None and trouble.hang[0] == stage and trouble.hang[1] in numbers:
            gate.wait(PATIENCE_S)
        for number in numbers:
            fault = trouble.faults.get(number)
            if fault is None or fault.stage != stage or fault.kind in UNENCODABLE:
                continue
            if fault.kind == "RecursionError":
                recurse()
            if fault.kind in RAISED:
                error = RAISED[fault.kind]()
                raise error
            result = RETURNED[fault.kind](rows)
            listed = isinstance(result, list) and stage != "postprocess"
            return self._wrapped(result) if listed else result
        return rows if stage == "postprocess" else self._wrapped(rows)

    def _wrapped(self, numbers: list[int]) -> Any:
        if self.payload is torch.Tensor:
            return torch.tensor(numbers)
        if self.payload is dict:
            return {"numbers": torch.tensor(numbers), "texts": [str(n) for n in numbers]}
        if self.payload is Opaque:
            return Opaque(numbers)
        return numbers

    def _unwrapped(self, payload: Any) -> list[int]:
        if type(payload) is not self.payload:
            raise TypeError(f"{SECRET}: {type(payload)} where {self.payload} is due")
        if isinstance(payload, Opaque):
            return payload.numbers
        numbers = payload["numbers"].tolist() if isinstance(payload, dict) else list(payload)
        if isinstance(payload, dict) and payload["texts"] != [str(n) for n in numbers]:
            raise TypeError(f"{SECRET}: the columns do not belong together")
        return [int(number) for number in numbers]


def right_answer(number: int) -> Any:
    """Text, bytes and JSON in turn."""
    value = {"n": number, "value": 3 * number + 1}
    text = json.dumps(value)
    return (value, text, text.encode(), value, [value])[number % 5]


def real_metrics() -> Any:
    """TorchServe's metrics with its own metrics.yaml."""
    file = Path(ts.__file__).parent / "configs" / "metrics.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # TorchServe does not close it
        cache = MetricsCacheYamlImpl(str(file))
    cache.initialize_cache()
    return cache


KINDS: tuple[tuple[type, dict[str, int]], ...] = (
    (list, {"preprocess": 2, "inference": 1, "postprocess": 2}),
    (torch.Tensor, {"preprocess": 1, "inference": 2, "postprocess": 1}),
    (dict, {"preprocess": 1, "inference": 1, "postprocess": 1}),
    (Opaque, {"preprocess": 1, "inference": 2, "postprocess": 1}),
    (list, {"preprocess": 1, "inference": 1, "postprocess": 1}),
)
INLINE = len(KINDS) - 1
"""The last runs each batch as one micro-batch, in the calling thread."""


class Slot:
    """One of the handlers, with the sizes it has now."""

    def __init__(self, place: int, chance: random.Random, metrics: Any) -> None:
        self._place = place
        self._chance = chance
        self._metrics = metrics
        self.plan()

    def plan(self) -> None:
        """Start a handler with new sizes."""
        payload, parallelism = KINDS[self._place]
        sizes = [self._chance.randint(1, BATCH_SIZE // 2) for _ in STAGES]
        if payload is Opaque:
            sizes = sizes[:1] * len(STAGES)
        if self._place == INLINE:
            sizes = [BATCH_SIZE] * len(STAGES)
        self.sizes = dict(zip(STAGES, sizes, strict=True))
        self.handler = Soaked()
        self.handler.payload = payload
        section = {
            "micro_batch_size": self.sizes,
            "parallelism": parallelism,
            "stage_timeout": STAGE_TIMEOUT_S,
        }
        self.service = service_of(
            self.handler, {"micro_batching": section}, self._metrics, BATCH_SIZE
        )
