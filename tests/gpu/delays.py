"""A handler whose work on the device is late, so that whoever does not wait is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.pipeline.device.stream import Stream
from tests.fakes import fake_context

__all__ = ["CASES", "NO_DELAYS", "forget", "late_answers", "right_answers"]

ROWS = 16

NO_DELAYS = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}

CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "copies out too": {"device": {"copy_out": True}},
    "no pinned memory": {"device": {"copy_out": True, "pinned_bytes": 0}},
    "two lanes of inference": {"parallelism": {"inference": 2}, "device": {"copy_out": True}},
    "many lanes": {"parallelism": {"preprocess": 3, "inference": 2, "postprocess": 2}},
}
"""Settings with which answers must be right, whatever is late."""


def late_answers(
    bench: Any,
    monkeypatch: Any,
    section: Mapping[str, Any],
    delays_ms: Mapping[str, float],
    batches: int = 2,
) -> list[list[Any]]:
    """The answers to batches of numbers, as the handler gives them on this bench.

    Args:
        bench: see benches.py.
        monkeypatch: pytest's.
        section: of `micro_batching:`.
        delays_ms: what each stage puts into its stream before its own work.
        batches: how many, of 16 requests, one after the other.
    """
    monkeypatch.setattr(
        "micro_batch_handler.torchserve.engine.accelerator_of", lambda _device: bench.accelerator
    )

    class Late(MicroBatchMixin, BaseHandler):
        def initialize(self, context):
            self.device = bench.device

        def preprocess(self, data):
            rows = torch.stack([_row(each["body"], bench.columns) for each in data])
            bench.sleep(delays_ms["preprocess"])  # the copy in comes after it
            return rows

        def inference(self, batch):
            bench.sleep(delays_ms["inference"])
            return bench.triple(batch)

        def postprocess(self, outputs):
            on_host = section.get("device", {}).get("copy_out", False)
            if not on_host:
                bench.sleep(delays_ms["postprocess"])
                outputs = bench.host(outputs)
            return [_answer(row) for row in outputs]

    handler = Late()
    section = {"micro_batch_size": 2, "stage_timeout": None, **section}
    handler.initialize(fake_context(1, batch_size=ROWS, model_yaml={"micro_batching": section}))
    try:
        return [
            handler.handle([{"body": number} for number in _numbers(batch)], fake_context(ROWS))
            for batch in range(batches)
        ]
    finally:
        handler.close()


def right_answers(bench: Any, batches: int = 2) -> list[list[Any]]:
    """What they must be."""
    return [
        [_answer(_row(number, bench.columns) * 3 + 1) for number in _numbers(batch)]
        for batch in range(batches)
    ]


def forget(monkeypatch: Any) -> None:
    """Let streams keep nothing alive for the device: rule 2 of streams.py is broken."""
    monkeypatch.setattr(Stream, "keep", lambda _stream, _things, _until, _then=None: None)


def _numbers(batch: int) -> range:
    return range(batch * ROWS, (batch + 1) * ROWS)


def _row(number: int, columns: int) -> torch.Tensor:
    """Whole numbers small enough that no rounding is involved."""
    return torch.arange(columns, dtype=torch.float32) % 1000 + number


def _answer(row: torch.Tensor) -> list[float]:
    # repr, because NaN equals nothing, itself included.
    return [repr(row.double().sum().item()), repr(row.amin().item()), repr(row.amax().item())]
