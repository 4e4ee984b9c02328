"""Three micro-batches of which one is copied in, one computed and one copied out, all at once.

    micro-batch 0    in | compute |                 | copy out |
    micro-batch 1    in           | compute . . . . . . . . . . . . . |
    micro-batch 2                                   | copy in |

Threads meet before they ask for the two copies, so that nothing is left to chance but the device.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from tests.fakes import fake_context
from tests.gpu.timeline import Span, Timeline

__all__ = ["all_at_once"]

PATIENCE_S = 30
SECTION = {
    "micro_batch_size": 1,
    "parallelism": 1,  # the micro-batches are numbered in the order of their calls
    "stage_timeout": None,
    "device": {"copy_out": True, "pinned_bytes": 2**30},
}


def all_at_once(bench: Any, monkeypatch: Any, columns: int, compute_ms: float) -> list[Span]:
    """What the device did meanwhile: `copy in`, `compute` and `copy out` of each micro-batch.

    Args:
        bench: see benches.py.
        monkeypatch: pytest's.
        columns: of the one row of each micro-batch, in floats.
        compute_ms: of the second one.
    """
    timeline = Timeline(bench)
    meeting = _Meeting()
    accelerator = bench.accelerator
    upload, download = accelerator.upload, accelerator.download

    def timed_upload(leaf, *, wait):
        number = timeline.number("copy in")
        if number == 2:
            meeting.meet()
        with timeline.span("copy in", number):
            bench.sleep(bench.copy_delay_ms)
            return upload(leaf, wait=wait)

    def timed_download(leaf, place):
        number = timeline.number("copy out")
        if number == 0:
            meeting.meet()
        with timeline.span("copy out", number):
            bench.sleep(bench.copy_delay_ms)
            download(leaf, place)

    def compute(batch):
        number = timeline.number("compute")
        with timeline.span("compute", number):
            began = bench.mark()
            bench.sleep(compute_ms if number == 1 else 0)
            result = bench.triple(batch)
        if number == 1:
            meeting.launched(began)
        return result

    monkeypatch.setattr(accelerator, "upload", timed_upload)
    monkeypatch.setattr(accelerator, "download", timed_download)
    monkeypatch.setattr(
        "micro_batch_handler.torchserve.engine.accelerator_of", lambda _device: accelerator
    )
    handler = Timed(bench.device, columns, compute)
    handler.initialize(fake_context(1, batch_size=3, model_yaml={"micro_batching": SECTION}))
    try:
        answers = handler.handle([{"body": row} for row in range(3)], fake_context(3))
    finally:
        handler.close()
    assert answers == [1.0, 4.0, 7.0]
    return timeline.spans()


class _Meeting:
    """Two threads meet once the device computes: it waits for nothing any more."""

    def __init__(self) -> None:
        self._launched = threading.Event()
        self._began: Any = None
        self._both = threading.Barrier(2, timeout=PATIENCE_S)

    def launched(self, began: Any) -> None:
        self._began = began
        self._launched.set()

    def meet(self) -> None:
        assert self._launched.wait(PATIENCE_S)
        self._began.synchronize()
        self._both.wait()


class Timed(MicroBatchMixin, BaseHandler):
    """One large row in, computed, one number out."""

    def __init__(self, device, columns, compute):
        super().__init__()
        self._made = (device, columns, compute)

    def initialize(self, context):
        self.device, self.columns, self.compute = self._made

    def preprocess(self, data):
        return torch.full((1, self.columns), float(data[0]["body"]))

    def inference(self, batch):
        return self.compute(batch)

    def postprocess(self, outputs):
        return outputs[:, 0].tolist()
