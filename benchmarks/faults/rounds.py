"""One handler under load, on a server of its own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.summary import Summary
from harness.crowd import crowd
from harness.image_load import ImageLoad, config
from harness.torchserve import TorchServe

__all__ = ["HANDLERS", "Conditions", "play"]

HANDLERS = {
    "coded": "MicroBatchHandler",
    "coded_stock": "TorchServe's MicroBatching",
    "coded_base": "TorchServe's BaseHandler",
}
"""Files in harness/handlers, and their titles in the table."""

SIZES = {"preprocess": 1, "inference": 8, "postprocess": 8}
"""Images that hang are alone in their call, so that nobody shares their time-out."""

SIZE_OF_STOCK = 1
"""It has one size for all stages; with this one, a fault shares no call with good requests."""


@dataclass(frozen=True)
class Conditions:
    """The load, which is the same for all handlers."""

    clients: int
    seconds: float
    hang_s: float | None
    """How long an image hangs; None for ever."""
    hang_every_s: float

    def config(self, handler: str) -> dict[str, Any]:
        """The content of the handler's model-config.yaml."""
        size: int | dict[str, int] = SIZE_OF_STOCK if handler == "coded_stock" else SIZES
        return config(hang_s=self.hang_s, micro_batch_size=size)


def play(handler: str, conditions: Conditions, number: int, summary: Summary) -> None:
    """One round: start a server, load it, count."""
    with TorchServe() as server, server.model(handler, conditions.config(handler)) as model:
        load = ImageLoad(model.name, hang_every_s=conditions.hang_every_s, seed=number)
        with _progress(f"round {number}, {summary.handler}", load, conditions.seconds):
            started_s = time.monotonic()
            results = crowd(server, conditions.clients, load.turn, seconds=conditions.seconds)
            seconds = time.monotonic() - started_s
        # Each worker prints its process id when it starts.
        summary.add(results, seconds, restarts=server.log().count("[PID]") - 1)


@contextmanager
def _progress(what: str, load: ImageLoad, seconds: float) -> Iterator[None]:
    """A line on a terminal that says how far it is; elsewhere one line at the end."""
    ended = threading.Event()
    started_s = time.monotonic()

    def line() -> str:
        passed_s = time.monotonic() - started_s
        wrong = sum(each.outcome != "right" for each in list(load.results))
        return (
            f"{what}: {passed_s:3.0f} of {seconds:.0f} s, "
            f"{len(load.results):,} requests, {wrong:,} not right"
        )

    def show() -> None:
        while not ended.wait(1):
            sys.stderr.write(f"\r{line()}\x1b[K")

    thread = threading.Thread(target=show, daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
            sys.stderr.write("\r")
        sys.stderr.write(f"{line()}\n")
