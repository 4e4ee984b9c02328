"""What a batch ended with: the answer or the failure of each request, and the calls made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.planning.plan import Plan

__all__ = ["BatchRecord", "Failure", "Listener", "Outcomes"]


@dataclass(frozen=True, eq=False)
class Failure:
    """Why some requests have no answer."""

    stage: Stage
    error: BaseException
    indices: Sequence[int]
    """The requests that failed together, as places in the batch."""


@dataclass(frozen=True)
class Outcomes:
    """What each request of a batch ended with, by its place in the batch."""

    answers: list[Any]
    """One entry a request; meaningless where the request failed."""

    failures: dict[int, Failure]

    retried: list[Failure]
    """Calls that failed and were made again in parts; some of their requests may be answered."""

    fatal: bool = False
    """Whether this process cannot serve any more: its device or too many of its lanes are lost."""

    calls: Sequence[CallRecord] = ()
    """The calls that were made, in the order in which they ended."""

    rescued: Sequence[Failure] = ()
    """Requests that failed in parts of the batch, and were answered by a call for themselves."""

    stopped: bool = False
    """Whether one fault has ended all of the batch that had not ended before."""

    def withheld(self) -> Outcomes:
        """The same if no answer may be sent: every request ends with the first failure."""
        first = next(iter(self.failures.values()))
        failure = replace(first, indices=range(len(self.answers)))
        return replace(self, failures=dict.fromkeys(failure.indices, failure))


class BatchRecord(NamedTuple):
    """One batch, and what became of it."""

    rows: int
    plan: Plan
    began_s: float
    """When it was cut, on the pipeline's clock."""
    ended_s: float
    """When its last request was settled."""
    outcomes: Outcomes
    """With the records of all calls."""


Listener: TypeAlias = Callable[[BatchRecord], None]
"""Is told of each batch when it has ended, in the thread that called for it."""
