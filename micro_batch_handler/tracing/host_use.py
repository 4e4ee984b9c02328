"""What calls have had of the model host: which host calls they were parts of, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean
from typing import NamedTuple

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.tracing.recording import TracedBatch

__all__ = [
    "HostBar",
    "HostUse",
    "covered_s",
    "host_bars",
    "host_calls_of",
    "own_work_s",
    "queued",
    "served_in_turn",
]

SAME_S = 1e-6
"""Calls of one stage that begin closer together are the same, told by several members."""


def host_calls_of(call: CallRecord) -> Iterator[tuple[Stage, HostCall]]:
    """The host calls that a call was a part of, with their stages, the last stage first."""
    position, host = STAGES.index(call.stage), call.host
    while host is not None:
        yield STAGES[position], host
        position, host = position - 1, host.before


def own_work_s(call: CallRecord, host: HostCall) -> float:
    """The part of a host call's seconds that is for the rows of one of its questions."""
    return host.worked_s * len(call.indices) / host.rows


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """The length of what spans of time cover together, in seconds."""
    covered_s, until_s = 0.0, -inf
    for began_s, ended_s in sorted(spans):
        covered_s += max(0.0, ended_s - max(began_s, until_s))
        until_s = max(until_s, ended_s)
    return covered_s


class HostBar(NamedTuple):
    """One host call, and the calls of known members that were parts of it."""

    stage: Stage
    host: HostCall
    parts: Sequence[tuple[int, CallRecord]]
    """The member's number, and its call."""

    @property
    def own_rows(self) -> int:
        """Rows of the known members; the others are those of members that are not traced."""
        return sum(len(call.indices) for _, call in self.parts)


def host_bars(calls: Iterable[tuple[int, CallRecord]]) -> list[HostBar]:
    """Each host call once, by stage and time.

    Args:
        calls: of one or several members, each with the member's number; on one clock.
    """
    found: list[HostBar] = []
    told = [(stage, host, (member, call)) for member, call in calls
            for stage, host in host_calls_of(call)]  # fmt: skip
    for stage, host, part in sorted(told, key=lambda each: (each[0], each[1].began_s)):
        last = found[-1] if found else None
        if last and last.stage == stage and host.began_s - last.host.began_s < SAME_S:
            found[-1] = last._replace(parts=[*last.parts, part])
        else:
            found.append(HostBar(stage, host, [part]))
    return found


def queued(call: CallRecord) -> Iterator[tuple[Stage, float, float]]:
    """When the rows of a call waited in the host for each of its host calls."""
    for stage, host in host_calls_of(call):
        if host.waited_s > 0:
            yield stage, host.began_s - host.waited_s, host.began_s


def served_in_turn(batch: TracedBatch) -> TracedBatch:
    """The batch as if the host were one lane of its own, which had the calls one after the other.

    Such a call takes what the host had of its rows and of no earlier call: its time also has the
    rows of other members in it.
    """
    calls = []
    free_s = -inf
    for call in batch.calls:
        if call.host is None:
            calls.append(call)
            continue
        ended_s = max(free_s, call.host.ended_s)
        began_s = min(ended_s, max(free_s, call.host.came_s))
        free_s = ended_s
        calls.append(call._replace(began_s=began_s, ended_s=ended_s))
    return batch._replace(calls=calls)


@dataclass(frozen=True)
class HostUse:
    """How batches shared the host, as shares of their time on average."""

    asked: float
    """The host had rows of the batch, which it computed or which waited."""
    own: float
    """It computed for these rows."""
    rows: float
    """Of a host call."""

    @property
    def others(self) -> float:
        """The host had rows of the batch, and computed for those of other members."""
        return max(0.0, self.asked - self.own)

    @classmethod
    def of(cls, batches: Sequence[TracedBatch]) -> HostUse | None:
        """What these batches had of the host; None if no call was made there."""
        calls = [call for batch in batches for call in batch.calls]
        wall_s = sum(batch.wall_s for batch in batches)
        bars = host_bars((0, call) for call in calls)
        if not bars or not wall_s:
            return None
        asked_s = sum(
            covered_s((c.host.came_s, c.host.ended_s) for c in batch.calls if c.host is not None)
            for batch in batches
        )
        own_s = sum(own_work_s(call, host) for call in calls for _, host in host_calls_of(call))
        return cls(asked_s / wall_s, own_s / wall_s, fmean(bar.host.rows for bar in bars))
