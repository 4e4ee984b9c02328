"""A trace: batches with all their calls and the settings they ran with, but no payloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from micro_batch_handler.config import PerStage
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.pipeline.outcomes import BatchRecord
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan

__all__ = ["Setup", "Trace", "TracedBatch", "call_s"]


@dataclass(frozen=True)
class Setup:
    """The settings and the machine that batches ran with."""

    model: str
    lanes: PerStage[int]
    batch_size: int
    """The most rows of a batch."""
    cores: int
    """That this process may use."""
    threads: IntraOpThreads | None = None
    """None in older traces."""
    on_device: bool = False
    """Whether the model is on an accelerator."""
    pads: bool = False
    """Whether calls of inference are padded to `allowed_sizes`."""


class TracedBatch(NamedTuple):
    """One batch; times are seconds on a clock that all batches of a trace share."""

    rows: int
    plan: Plan
    began_s: float
    ended_s: float
    calls: Sequence[CallRecord]
    """In the order in which they ended."""

    @classmethod
    def of(cls, record: BatchRecord) -> TracedBatch:
        """The part of a record that a trace keeps: nothing of requests and answers."""
        calls = tuple(call._replace(indices=tuple(call.indices)) for call in record.outcomes.calls)
        return cls(record.rows, record.plan, record.began_s, record.ended_s, calls)

    @property
    def wall_s(self) -> float:
        """Seconds from the cut of the batch to its last settled request."""
        return self.ended_s - self.began_s


@dataclass(frozen=True)
class Trace:
    """Batches of one handler, in order."""

    setup: Setup
    batches: Sequence[TracedBatch]


def call_s(call: CallRecord) -> float:
    """Seconds that a call took."""
    return call.ended_s - call.began_s
