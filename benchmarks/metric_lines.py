"""The processor time that the metrics of one batch take in a real worker and in the frontend.

python -m benchmarks.metric_lines

For one request the worker writes the metrics of many batches, so that nothing else counts. It
writes them as this package does while batches come fast, for batches cut in different ways; as it
does while they are rare, with a write for each batch; and through TorchServe's own cache, with a
log record for each of as many figures.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.metrics import worked_s
from harness.command import describe
from harness.model import Model
from harness.torchserve import TorchServe

__all__ = ["main"]

HANDLER = Path(__file__).with_name("metric_lines_handler.py")

WAYS = {
    "added up, batch of 32 left whole": {"size": 32},
    "the same, in micro-batches of 8": {"size": 8},
    "the same, in micro-batches of 1": {"size": 1},
    "18 lines in one write for each batch": {"size": 32, "rare": True},
    "18 records by TorchServe's cache": {},
}
"""The requests to the handler."""

BATCHES = 500
REQUESTS = 10
ROUNDS = 7


def main() -> None:
    """Measure in turn, and print the medians in microseconds a batch."""
    properties = {"decode_input_request": "true", "enable_model_api": "true"}
    with TorchServe(properties, shipped=True) as server, server.model(HANDLER) as model:
        rounds = [[_measure(model, way) for way in WAYS.values()] for _ in range(1 + ROUNDS)][1:]
    sys.stdout.write(
        f"{describe()}\n\n| a batch | worker (µs) | frontend (µs) |\n| --- | --- | --- |\n"
    )
    for way, of in zip(WAYS, zip(*rounds, strict=True), strict=True):
        worker, frontend = (statistics.median(each) for each in zip(*of, strict=True))
        sys.stdout.write(f"| {way} | {worker:.0f} | {frontend:.0f} |\n")


def _measure(model: Model, way: Mapping[str, int]) -> tuple[float, float]:
    """Microseconds of the worker and of the frontend for one batch."""
    before = worked_s(model.server)
    for batches in [BATCHES] * REQUESTS:
        answer = model.predict(json={**way, "batches": batches})
        answer.raise_for_status()
    # The frontend may still be reading what was written last: a few hundred lines of 90,000.
    after = worked_s(model.server)
    worker, frontend = (
        (end - begin) / (BATCHES * REQUESTS) * 1e6 for begin, end in zip(before, after, strict=True)
    )
    return worker, frontend


if __name__ == "__main__":
    main()
