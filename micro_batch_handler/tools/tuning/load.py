"""A worker's batches under load: the throughput and latency that clients get.

Each worker has one batch in flight. While it runs, requests gather for the next. When it is
answered, the frontend needs a moment (the gap) before the worker has the next. So

    throughput   n / (batch + gap), of each worker
    latency      the rest of the batch before, the gap, the own batch; a request comes at any time

             |-- batch before --|gap|-- own batch --|gap|
                   ^ request comes              answer ^

This holds up to full load, where about a batch waits. With more clients a queue grows, and latency
is their number divided by the throughput, whatever the setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from micro_batch_handler.planning.cost_curve import Line
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import Trial, spread

__all__ = ["GAP", "Figures", "Load", "percentile"]

GAP = Line(0.0005, 0.00006)
"""Seconds between two batches of k requests, in TorchServe's frontend and the worker's socket."""

DELAY_SHARE = 0.1
"""The share of batch and gap that the first request of a batch waits for others. By then the
clients that were just answered have sent again, and no request waits noticeably longer."""

MOST_DELAY_MS = 100

STEPS = 100
"""Moments of a batch, evenly spread, at which requests are assumed to come."""


@dataclass(frozen=True)
class Figures:
    """Throughput, latency and memory of a setting, predicted or measured."""

    setting: Setting
    rate: float
    """Requests per second of all workers under full load."""
    p50_s: float
    p99_s: float
    memory_bytes: float
    """Held by all workers at most; 0 if the system does not tell."""
    batch_s: float
    max_batch_delay_ms: int
    batches: int = 0
    """That were measured; 0 for a prediction."""
    spread: float = 0.0
    """How far the trials lie apart, relatively."""


@dataclass(frozen=True)
class Load:
    """Clients that send again when they are answered."""

    gap: Line = GAP
    """Seconds between two batches, by the rows of a batch."""
    clients: int | None = None
    """How many; None for just enough for full batches in all workers."""

    def fills(self, setting: Setting) -> bool:
        """Whether there are clients enough for full batches in all workers of a setting."""
        return self.clients is None or setting.batch_size * setting.workers <= self.clients

    def rate(self, setting: Setting, batch_s: float) -> float:
        """Requests per second, of all workers."""
        return setting.workers * setting.batch_size / self._cycle_s(setting, batch_s)

    def max_batch_delay_ms(self, setting: Setting, batch_s: float) -> int:
        """`maxBatchDelay`, in whole milliseconds; a batch of one waits for no other request."""
        if setting.batch_size == 1:
            return 0
        delay_ms = round(1000 * DELAY_SHARE * self._cycle_s(setting, batch_s))
        return min(max(1, delay_ms), MOST_DELAY_MS)

    def latencies_s(self, setting: Setting, batches_s: Sequence[float]) -> list[float]:
        """Latencies of requests that come at any moment of these batches, which follow one another.

        Includes `maxBatchDelay`, which the first request of a batch waits for and the last does
        not, and the queue in front, if there are more clients than all batches hold.
        """
        mean_s = sum(batches_s) / len(batches_s)
        delay_s = self.max_batch_delay_ms(setting, mean_s) / 1000
        if self.clients is not None:
            held_s = (1 + 0.5) * self._cycle_s(setting, mean_s)  # half a batch before, and the own
            delay_s += max(0.0, self.clients / self.rate(setting, mean_s) - held_s)
        cycles_s = [self._cycle_s(setting, seconds) for seconds in batches_s]
        pairs = zip([cycles_s[-1], *cycles_s[:-1]], cycles_s, strict=True)
        return [
            before * (step + 0.5) / STEPS + delay_s + own
            for before, own in pairs
            for step in range(STEPS)
        ]

    def predicted(
        self, setting: Setting, batch_s: float, memory_bytes: float, tail: float = 1.0
    ) -> Figures:
        """The figures of a setting that was not run.

        Args:
            setting: that is asked about.
            batch_s: what a batch is expected to take.
            memory_bytes: that all workers are expected to hold.
            tail: by what factor the p99 is longer than if all batches took the same.
        """
        p50_s, p99_s = self._percentiles_s(setting, [batch_s])
        rate, delay_ms = self.rate(setting, batch_s), self.max_batch_delay_ms(setting, batch_s)
        return Figures(setting, rate, p50_s, p99_s * tail, memory_bytes, batch_s, delay_ms)

    def measured(self, setting: Setting, trials: Sequence[Trial]) -> Figures:
        """The figures that trials of a setting show; the rate is of the median trial."""
        batches = [batch for trial in trials for batch in trial.batches]
        taken_s = [trial.seconds for trial in trials]
        held_bytes = setting.workers * max(batch.peak_bytes for batch in batches)
        held_bytes += max(batch.host_bytes for batch in batches)
        p50_s, p99_s = self._percentiles_s(setting, [batch.seconds for batch in batches])
        even = self.predicted(setting, median(taken_s), held_bytes)
        made, apart = len(batches), spread(taken_s)
        return replace(even, p50_s=p50_s, p99_s=p99_s, batches=made, spread=apart)

    def _percentiles_s(self, setting: Setting, batches_s: Sequence[float]) -> tuple[float, float]:
        latencies_s = self.latencies_s(setting, batches_s)
        return percentile(latencies_s, 0.5), percentile(latencies_s, 0.99)

    def _cycle_s(self, setting: Setting, batch_s: float) -> float:
        return batch_s + self.gap.at(setting.batch_size)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed.

    >>> percentile([4, 1, 3, 2], 0.5)
    2
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
