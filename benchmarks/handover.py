"""The time that a micro-batch takes in each stage besides the call itself.

    python -m benchmarks.handover

The stages do nothing, so a batch takes the time of its hand-overs: it is divided by the number of
micro-batches and stages. The same rounds measure three threads that only pass as many items on
through queues of the same bounds, and the pipeline's own code called by one thread.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

from harness.command import describe
from micro_batch_handler.config import STAGES, PerStage, Stage
from micro_batch_handler.pipeline.batch import Batch
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.payloads.operations import Payload
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.requests import Requests
from micro_batch_handler.pipeline.stage import Keep, StageFunction
from micro_batch_handler.planning.plan import Plan

BOUND = 2
"""Of an inbox between stages with one lane each."""

STAGE_TIMEOUT_S = 30.0


def main() -> int:
    """Measure, print a table; gives back 0."""
    options = _parser().parse_args()
    head = "| rows | micro-batches | handed over µs (range) | bare threads µs | one thread µs |"
    sys.stdout.write(f"{head}\n| --- | --- | --- | --- | --- |\n")
    for rows, size in ((32, 1), (32, 4), (64, 4), (8, 1), (2, 1)):
        with ExitStack() as stack:
            ways = [
                stack.enter_context(way(rows, size)) for way in (_handed_over, _bare, _one_thread)
            ]
            count = -(-rows // size) * len(STAGES)
            found = _in_turns(ways, options.batches)
        each = [[1e6 * seconds / count for seconds in times_s] for times_s in found]
        ours, bare, alone = map(median, each)
        low, high = (_quantile(each[0], share) for share in (0.1, 0.9))
        sys.stdout.write(
            f"| {rows} | {rows // size} | {ours:.1f} ({low:.1f} to {high:.1f}) "
            f"| {bare:.1f} | {alone:.1f} |\n"
        )
        sys.stdout.flush()
    told = ", ".join(f"{key} {value}" for key, value in describe().items())
    sys.stdout.write(f"\nMedians; nine in ten batches lie in the range. {told}\n")
    return 0


def _in_turns(ways: Sequence[Callable[[], None]], batches: int) -> list[list[float]]:
    """The seconds of each batch, for each way; the first fifth is thrown away."""
    times_s: list[list[float]] = [[] for _ in ways]
    for batch in range(batches + batches // 4):
        for way, taken in zip(ways, times_s, strict=True):
            began_s = time.perf_counter()
            way()
            if batch >= batches // 4:
                taken.append(time.perf_counter() - began_s)
    return times_s


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _functions() -> dict[Stage, StageFunction]:
    def call(_tag: Any, _call: Call, payload: Payload) -> tuple[Payload, Keep | None]:
        return payload, None

    return dict.fromkeys(STAGES, call)


@contextmanager
def _handed_over(rows: int, size: int) -> Iterator[Callable[[], None]]:
    """The pipeline, one lane a stage."""
    data, plan = list(range(rows)), Plan.of(size)
    with Pipeline(_functions(), PerStage.of(1), stage_timeout_s=STAGE_TIMEOUT_S) as pipeline:
        yield lambda: _ignore(pipeline.run(data, plan))


@contextmanager
def _one_thread(rows: int, size: int) -> Iterator[Callable[[], None]]:
    """The same micro-batches, called one after the other by the thread that asks."""
    data, plan = list(range(rows)), Plan.of(size)
    with Pipeline(_functions(), PerStage.of(1), stage_timeout_s=STAGE_TIMEOUT_S) as pipeline:
        executor = pipeline._executor  # noqa: SLF001

        def run() -> None:
            batch = Batch(Requests(data), plan)
            steps = batch.first()
            while steps:
                steps += executor.execute(batch, *steps.pop(0), [])

        yield run


@contextmanager
def _bare(rows: int, size: int) -> Iterator[Callable[[], None]]:
    """Threads and queues, nothing else."""
    count = -(-rows // size)
    boxes = [_Box(places) for places in (count, BOUND, BOUND, count)]
    threads = [threading.Thread(target=_lane, args=ends, daemon=True) for ends in pairwise(boxes)]
    for thread in threads:
        thread.start()

    def run() -> None:
        for item in range(count):
            boxes[0].put(item)
        for _ in range(count):
            boxes[-1].get()

    try:
        yield run
    finally:
        boxes[0].put(None)
        for thread in threads:
            thread.join()


class _Box:
    """A queue with a bound, both in C."""

    def __init__(self, places: int) -> None:
        self._items: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(places):
            self._room.put(None)

    def put(self, item: int | None) -> None:
        self._room.get()
        self._items.put(item)

    def get(self) -> int | None:
        item = self._items.get()
        self._room.put(None)
        return item


def _lane(inbox: _Box, outbox: _Box) -> None:
    item: int | None = 0
    while item is not None:
        item = inbox.get()
        outbox.put(item)


def _ignore(_: object) -> None:
    """The outcomes of a batch."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="What a micro-batch costs in each stage beside the call.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batches", type=int, default=1000, help="of each kind, in turns")
    return parser


if __name__ == "__main__":
    sys.exit(main())
