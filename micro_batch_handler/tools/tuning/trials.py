"""Trials: batches of a handler, run in a setting; all that the tuner learns of the handler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple, Protocol

from micro_batch_handler.errors import MicroBatchError
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tracing.recording import TracedBatch

__all__ = ["BatchRunner", "MeasuredBatch", "SettingFails", "TimeBudget", "Trial", "spread"]


class SettingFails(MicroBatchError):  # noqa: N818  (it says what is so)
    """Batches fail in one setting; others may not."""

    def __init__(self, message: str, *, regroups: bool = True) -> None:
        super().__init__(message)
        self.regroups = regroups
        """False if the reason is that payloads cannot be cut or joined between stages."""


class MeasuredBatch(NamedTuple):
    """A full batch that was run."""

    traced: TracedBatch
    cpu_s: float
    """Processor time of the process meanwhile."""
    peak_bytes: int
    """The most memory that the process held meanwhile; 0 if the system does not tell."""
    host_cpu_s: float = 0.0
    """As `cpu_s`, of the process with the model that workers share; for all of them."""
    host_bytes: int = 0
    """As `peak_bytes`, of that process."""

    @property
    def seconds(self) -> float:
        """From its requests to its answers, in the worker."""
        return self.traced.wall_s

    @property
    def cores_used(self) -> float:
        """Cores that the process kept busy, on average."""
        return self.cpu_s / self.seconds

    @property
    def host_cores_used(self) -> float:
        """Cores that the process with the shared model kept busy, on average."""
        return self.host_cpu_s / self.seconds


class Trial(NamedTuple):
    """Batches in one setting, one after the other."""

    batches: Sequence[MeasuredBatch]

    @property
    def seconds(self) -> float:
        """Of a batch; the mean, since requests differ."""
        return fmean(batch.seconds for batch in self.batches)


class BatchRunner(Protocol):
    """Runs batches of one handler."""

    def run(self, setting: Setting, times: int = 1) -> Trial:
        """Run full batches: so many, or more until each sample was among them.

        The first batch in new lanes does not count.

        Raises:
            SettingFails: a request of them has failed.
        """
        ...


@dataclass
class TimeBudget:
    """The seconds that tuning may take, from now on. A batch that has begun is finished first."""

    seconds: float
    told: Callable[[float, str], None] = lambda _used_s, _doing: None
    """Is told the seconds used and what is done next."""
    now_s: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began_s = self.now_s()

    def lasts(self, share: float) -> bool:
        """Whether less than this share of the time is used."""
        return self._used_s < share * self.seconds

    def doing(self, what: str) -> None:
        """Tell what is done next."""
        self.told(self._used_s, what)

    @property
    def _used_s(self) -> float:
        return self.now_s() - self._began_s


def spread(values: Sequence[float]) -> float:
    """How far repeated measures of one thing lie apart, relative to their median.

    1.4826 times the median absolute deviation, which estimates the standard deviation of a normal
    distribution (https://en.wikipedia.org/wiki/Median_absolute_deviation).
    """
    middle = median(values)
    return 1.4826 * median(abs(value - middle) for value in values) / middle if middle else 0.0
