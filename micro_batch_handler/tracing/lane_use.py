"""How a batch used its lanes: when they were idle, what waited for them, the critical path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.call import INLINE, LANE, CallRecord
from micro_batch_handler.tracing.recording import Trace, TracedBatch

__all__ = [
    "Span",
    "critical_path",
    "how_many",
    "idle_spans",
    "lane_names",
    "waiting",
    "with_sources",
]


class Span(NamedTuple):
    """A span of time, in seconds."""

    began_s: float
    ended_s: float


def lane_names(trace: Trace) -> list[str]:
    """All threads of a trace, also of idle lanes: the caller, then lanes in the order of stages."""
    used = {call.thread for batch in trace.batches for call in batch.calls}
    names = [INLINE] if INLINE in used else []
    for stage in STAGES:
        begin = f"{LANE}{stage}-"
        seen = sorted((name for name in used if name.startswith(begin)), key=_number)
        # A lane that was replaced has a successor with a number of its own.
        idle = [f"{begin}{n}" for n in range(trace.setup.lanes[stage])]
        missing = trace.setup.lanes[stage] - len(seen)
        seen += [name for name in idle if name not in seen][: max(0, missing)]
        names += sorted(seen, key=_number)
    return names


def idle_spans(batch: TracedBatch, thread: str) -> list[Span]:
    """When a lane was idle; these spans and its calls make up the time of the batch."""
    found = []
    free_s = batch.began_s
    busy = sorted((each.began_s, each.ended_s) for each in batch.calls if each.thread == thread)
    for began_s, ended_s in [*busy, (batch.ended_s, batch.ended_s)]:
        if began_s > free_s:
            found.append(Span(free_s, began_s))
        free_s = max(free_s, ended_s)
    return found


def waiting(batch: TracedBatch, stage: Stage) -> list[tuple[Span, int]]:
    """How many micro-batches were ready for a stage and not begun, as spans with their number."""
    return how_many((call.ready_s, call.began_s) for call in batch.calls if call.stage == stage)


def how_many(spans: Iterable[tuple[float, float]]) -> list[tuple[Span, int]]:
    """How many of some spans there are at a time, as spans with their number."""
    steps: dict[float, int] = {}
    for began_s, ended_s in spans:
        if ended_s > began_s:
            steps[began_s] = steps.get(began_s, 0) + 1
            steps[ended_s] = steps.get(ended_s, 0) - 1
    found = []
    number = 0
    for since_s, at_s in pairwise(sorted(steps)):
        number += steps[since_s]
        if number:
            found.append((Span(since_s, at_s), number))
    return found


def with_sources(calls: Sequence[CallRecord]) -> Iterator[tuple[CallRecord, list[CallRecord]]]:
    """Each call of a batch with the calls of the stage before that its rows came from.

    Args:
        calls: in the order in which they ended.
    """
    came_from: dict[tuple[int, int], CallRecord] = {}
    for call in calls:
        position = STAGES.index(call.stage)
        found = (came_from.get((position - 1, row)) for row in call.indices)
        # By identity: two calls may be equal, and a dictionary keeps their order.
        yield call, list({id(source): source for source in found if source}.values())
        if not call.failed:
            came_from.update(dict.fromkeys(((position, row) for row in call.indices), call))


def critical_path(batch: TracedBatch) -> list[CallRecord]:
    """The calls that the end of the batch waited for, in order.

    Each follows the last to end of the calls that it needed: the sources of its rows, and the call
    before it in its lane.
    """
    before: dict[int, list[CallRecord]] = {}
    in_lane: dict[str, list[CallRecord]] = {}
    for call, sources in with_sources(batch.calls):
        # The calls of one lane end in the order in which they begin.
        own = in_lane.setdefault(call.thread, [])
        before[id(call)] = [*sources, *own[-1:]]
        own.append(call)
    path: list[CallRecord] = []
    at = max(batch.calls, key=attrgetter("ended_s"), default=None)
    while at is not None:
        path.append(at)
        at = max(before[id(at)], key=attrgetter("ended_s"), default=None)
    return path[::-1]


def _number(name: str) -> int:
    last = name.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0
