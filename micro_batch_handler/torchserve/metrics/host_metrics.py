"""The metrics of the model host, which its members write for it.

Each member counts what it asks. A host call of several members is told to all of them, and counted
by the one whose question was the first in it, so that sums over all workers are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from micro_batch_handler.config import Stage
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.torchserve.metrics.lines import Metric, Sample
from micro_batch_handler.tracing.host_use import covered_s, host_calls_of, own_work_s

__all__ = ["HOST_METRICS", "HostMetrics", "HostTotals"]

CALLS = Metric("mbh_host_calls_total", "counter", "Count", ("Stage", "DeviceId"))
ROWS = Metric("mbh_host_rows_total", "counter", "Count", ("Stage", "DeviceId"))
WORK = Metric("mbh_host_work_seconds_total", "counter", "Seconds", ("Stage", "DeviceId"))
"""Of host calls: there is one at a time of each stage, so that the rate is the busy share."""
WAIT = Metric("mbh_host_wait_seconds_total", "counter", "Seconds", ("Stage", "DeviceId"))
"""Of the micro-batches of all members, from when the host had them until their call."""
RESTARTS = Metric("mbh_host_restarts_total", "counter", "Count", ("DeviceId",))

HOST_METRICS = (RESTARTS, CALLS, ROWS, WORK, WAIT)


class HostTotals(NamedTuple):
    """What the calls of a batch have had of the host."""

    work_s: Mapping[Stage, float]
    """Seconds that it computed for rows of the batch, by hosted stage."""
    rest_s: Mapping[Stage, float]
    """The rest of the calls: waiting for a host, for the rows of other members, for copies."""
    asked_s: float
    """Seconds of the batch in which there was such a call."""
    samples: Sequence[Sample]
    """Of the host's own metrics."""


class HostMetrics:
    """What one member knows of its host.

    Args:
        stages: that are hosted.
        gpu: the number of the device; None for the CPU.
        link: counts the hosts that this member has started in place of lost ones.
    """

    def __init__(self, stages: Sequence[Stage], gpu: int | str | None, link: HostLink) -> None:
        self.stages = frozenset(stages)
        self._device = "cpu" if gpu is None else str(gpu)
        self._link = link
        self._restarts = 0

    def counters(self) -> Iterator[tuple[Metric, tuple[str, ...]]]:
        """Each counter of the host, with its dimensions."""
        yield RESTARTS, (self._device,)
        for metric, stage in product((CALLS, ROWS, WORK, WAIT), sorted(self.stages)):
            yield metric, (stage, self._device)

    def totals(self, calls: Iterable[CallRecord]) -> HostTotals:
        """What the calls of a batch add, those of other stages aside."""
        asked = [call for call in calls if call.stage in self.stages]
        work_s, rest_s = dict.fromkeys(self.stages, 0.0), dict.fromkeys(self.stages, 0.0)
        of_host = {stage: [0, 0, 0.0, 0.0] for stage in self.stages}
        for call in asked:
            left_s = call.ended_s - call.began_s
            for stage, host in host_calls_of(call):
                own_s = own_work_s(call, host)
                work_s[stage] += own_s
                left_s -= own_s
                sums = of_host[stage]
                if host.first:
                    sums[0] += 1
                    sums[1] += host.rows
                    sums[2] += host.worked_s
                sums[3] += host.waited_s
            rest_s[call.stage] += max(0.0, left_s)
        samples: list[Sample] = [
            (metric, value, (stage, self._device))
            for stage, sums in of_host.items()
            for metric, value in zip((CALLS, ROWS, WORK, WAIT), sums, strict=True)
        ]
        if self._link.restarts > self._restarts:
            before, self._restarts = self._restarts, self._link.restarts
            samples.append((RESTARTS, self._restarts - before, (self._device,)))
        asked_s = covered_s((call.began_s, call.ended_s) for call in asked)
        return HostTotals(work_s, rest_s, asked_s, samples)
