"""What calls have had of the model host: which host calls they were parts of, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord

__all__ = ["covered_s", "host_calls_of", "own_work_s"]


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
