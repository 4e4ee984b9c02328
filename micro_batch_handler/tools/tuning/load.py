"""Workers under load: what batches that take so long mean for clients.

Each worker has one batch in flight. While it runs, requests gather for the next; when it is
answered, the frontend needs a moment (the gap) before the worker has the next. So

    throughput   n / (batch + gap), of each worker
    latency      the rest of the batch before, the gap, the own batch; a request comes at any time

             |-- batch before --|gap|-- own batch --|gap|
                   ^ comes                              ^ is answered

It holds up to full load, where about a batch waits. With more clients a queue grows, and latency is
their number divided by the throughput, whatever the setting.
"""

from __future__ import annotations

from collections.abc import Sequence

from micro_batch_handler.planning.cost_curve import Line

__all__ = ["GAP", "Load", "percentile"]

GAP = Line(0.0005, 0.00006)
"""Seconds between two batches of k requests: TorchServe's frontend, its worker's socket."""

DELAY_SHARE = 0.1
"""Of batch and gap, how long the first request of a batch waits for company: the clients that were
answered just now have sent again by then, and nobody waits noticeably longer."""

MOST_DELAY_MS = 100

STEPS = 100
"""Moments of a batch at which requests are taken to come."""


class Load:
    """Clients that send again when they are answered.

    Args:
        gap: seconds between two batches, by the rows of a batch.
        clients: how many; None for just enough for full batches in all workers.
    """

    def __init__(self, gap: Line = GAP, clients: int | None = None) -> None:
        self._gap = gap
        self._clients = clients

    def fills(self, batch_size: int, workers: int) -> bool:
        """Whether there are clients enough for full batches in so many workers."""
        return self._clients is None or batch_size * workers <= self._clients

    def rate(self, rows: int, batch_s: float, workers: int = 1) -> float:
        """Requests per second, of all workers."""
        return workers * rows / self._cycle_s(rows, batch_s)

    def max_batch_delay_ms(self, rows: int, batch_s: float) -> int:
        """`maxBatchDelay`, in whole milliseconds; a batch of one waits for nobody."""
        if rows == 1:
            return 0
        delay_ms = round(1000 * DELAY_SHARE * self._cycle_s(rows, batch_s))
        return min(max(1, delay_ms), MOST_DELAY_MS)

    def latencies_s(self, rows: int, batches_s: Sequence[float], workers: int = 1) -> list[float]:
        """What requests wait that come at any moment of these batches, which follow one another.

        With `maxBatchDelay`, which the last of a batch does not wait for, and the first does; and
        with the queue in front, if there are more clients than that.
        """
        mean_s = sum(batches_s) / len(batches_s)
        delay_s = self.max_batch_delay_ms(rows, mean_s) / 1000
        if self._clients is not None:
            held_s = (1 + 0.5) * self._cycle_s(rows, mean_s)  # half a batch before, and the own
            delay_s += max(0.0, self._clients / self.rate(rows, mean_s, workers) - held_s)
        cycles_s = [self._cycle_s(rows, seconds) for seconds in batches_s]
        pairs = zip([cycles_s[-1], *cycles_s[:-1]], cycles_s, strict=True)
        return [
            before * (step + 0.5) / STEPS + delay_s + own
            for before, own in pairs
            for step in range(STEPS)
        ]

    def _cycle_s(self, rows: int, batch_s: float) -> float:
        return batch_s + self._gap.at(rows)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed.

    >>> percentile([4, 1, 3, 2], 0.5)
    2
    """
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
