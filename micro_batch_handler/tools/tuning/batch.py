"""A batch that was run, and who runs them: all that the tuner learns of a handler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple, Protocol

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.errors import MicroBatchError
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Batch", "Bench", "Call", "SettingFails", "Visit", "spread"]


class SettingFails(MicroBatchError):  # noqa: N818  (it says what is so)
    """Batches fail in one setting; others may do."""

    def __init__(self, message: str, *, regroups: bool = True) -> None:
        super().__init__(message)
        self.regroups = regroups
        """False if the reason is that payloads cannot be cut or joined between stages."""


class Call(NamedTuple):
    """One call of one stage."""

    stage: Stage
    rows: int
    seconds: float


@dataclass(frozen=True)
class Batch:
    """One full batch, as it went."""

    seconds: float
    """From its rows to its answers, in the worker."""

    calls: Sequence[Call]

    cpu_s: float
    """Processor time of the process meanwhile."""

    peak_bytes: int
    """The most memory that the process has held meanwhile; 0 if it cannot be told."""

    def busy_s(self, stage: Stage) -> float:
        """Seconds that the calls of a stage took together."""
        return sum(call.seconds for call in self.calls if call.stage == stage)

    @property
    def work_s(self) -> float:
        """Seconds of all calls together."""
        return sum(self.busy_s(stage) for stage in STAGES)


class Visit(NamedTuple):
    """Batches of one setting, one after the other."""

    batches: Sequence[Batch]

    @property
    def seconds(self) -> float:
        """What a batch takes; the mean, since requests differ."""
        return fmean(batch.seconds for batch in self.batches)


class Bench(Protocol):
    """Runs batches of one handler."""

    def visit(self, setting: Setting, times: int = 1) -> Visit:
        """Run full batches: so many, or more until each sample was among them.

        What comes first in new lanes does not count.

        Raises:
            SettingFails: some request of them has failed.
        """
        ...


def spread(values: Sequence[float]) -> float:
    """How far repeated measures of one thing lie apart, relative to their median.

    1.4826 times the median deviation, which is the standard deviation of a normal distribution.
    """
    middle = median(values)
    return 1.4826 * median(abs(value - middle) for value in values) / middle if middle else 0.0
