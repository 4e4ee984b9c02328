"""When a device did what, and what of it at the same time.

Times come from events (a `Timeline`) or from the trace of torch.profiler (`read_trace`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Span", "Timeline", "busy_ms", "intersection", "read_trace", "together_ms", "union"]

Interval = tuple[float, float]


@dataclass(frozen=True)
class Span:
    """Something that a device did from one moment to another."""

    kind: str
    number: int
    """Of the micro-batch, or of the stream."""
    start_ms: float
    stop_ms: float
    name: str = ""

    @property
    def interval(self) -> Interval:
        """From when to when."""
        return (self.start_ms, self.stop_ms)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The moments that lie in any of these, as intervals that do not touch, in order.

    >>> union([(3, 4), (0, 1), (1, 2)])
    [(0, 2), (3, 4)]
    """
    joined: list[Interval] = []
    for start, stop in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


def intersection(first: Iterable[Interval], second: Iterable[Interval]) -> list[Interval]:
    """The moments that lie in both.

    >>> intersection([(0, 4)], [(1, 2), (3, 9)])
    [(1, 2), (3, 4)]
    """
    ones, others = union(first), union(second)
    return union((max(one[0], other[0]), min(one[1], other[1])) for one in ones for other in others)


def busy_ms(spans: Iterable[Span]) -> float:
    """How long at least one of these took place."""
    return sum(stop - start for start, stop in union(span.interval for span in spans))


def together_ms(*groups: Sequence[Span]) -> float:
    """How long something of each group took place at the same time."""
    moments = union(span.interval for span in groups[0])
    for group in groups[1:]:
        moments = intersection(moments, (span.interval for span in group))
    return sum(stop - start for start, stop in moments)


class Timeline:
    """Spans between events that are recorded in the current stream.

    Args:
        bench: see tests/gpu/benches.py; its events tell the time of the device.
    """

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self._base = bench.mark()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._marks: list[tuple[str, int, Any, Any]] = []

    def number(self, kind: str) -> int:
        """How often this was asked for this kind before."""
        with self._lock:
            number = self._counts.get(kind, 0)
            self._counts[kind] = number + 1
            return number

    @contextmanager
    def span(self, kind: str, number: int) -> Iterator[None]:
        """What the body asks of the device, in the stream that is current."""
        start = self._bench.mark()
        yield
        stop = self._bench.mark()
        with self._lock:
            self._marks.append((kind, number, start, stop))

    def spans(self) -> list[Span]:
        """All of them, once the device is done."""
        self._bench.synchronize()
        with self._lock:
            return [
                Span(kind, number, self._base.elapsed_time(start), self._base.elapsed_time(stop))
                for kind, number, start, stop in self._marks
            ]


TRACED = {"kernel": "compute", "gpu_memset": "compute", "gpu_memcpy": "copy"}
"""The categories of a trace that the device itself is busy with."""


def read_trace(path: Path) -> list[Span]:
    """What the device did, from the file of `torch.profiler.profile.export_chrome_trace`.

    Kinds are `compute`, `copy in`, `copy out` and `copy` (within the device); the number is the
    stream's; names of copies say which memory, as in `Memcpy HtoD (Pinned -> Device)`.
    """
    trace = json.loads(path.read_text(encoding="utf-8"))
    spans = []
    for event in trace["traceEvents"]:
        kind = TRACED.get(event.get("cat", ""))
        if kind is None or event.get("ph") != "X":
            continue
        name = str(event["name"])
        kind = {"HtoD": "copy in", "DtoH": "copy out"}.get(_direction(name), kind)
        start_ms = float(event["ts"]) / 1000
        stream = int(event.get("args", {}).get("stream", -1))
        spans.append(Span(kind, stream, start_ms, start_ms + float(event["dur"]) / 1000, name))
    return spans


def _direction(name: str) -> str:
    words = name.split()
    return words[1] if len(words) > 1 and words[0] == "Memcpy" else ""
