"""The metrics of the model host, which its members write for it.

Each member counts what it asks. A host call of several members is told to all of them, and counted
by the one whose question was the first in it, so that sums over all workers are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from micro_batch_handler.config import Stage
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.torchserve.metrics.lines import Metric, Sample
from micro_batch_handler.tracing.host_use import covered_s, host_calls_of, own_work_s

__all__ = ["HOST_METRICS", "HostMetrics"]

CALLS = Metric("mbh_host_calls_total", "counter", "Count", ("Stage", "DeviceId"))
ROWS = Metric("mbh_host_rows_total", "counter", "Count", ("Stage", "DeviceId"))
WORK = Metric("mbh_host_work_seconds_total", "counter", "Seconds", ("Stage", "DeviceId"))
"""Of host calls: there is one at a time of each stage, so that the rate is the busy share."""
WAIT = Metric("mbh_host_wait_seconds_total", "counter", "Seconds", ("Stage", "DeviceId"))
"""Of the micro-batches of all members, from when the host had them until their call."""
RESTARTS = Metric("mbh_host_restarts_total", "counter", "Count", ("DeviceId",))

HOST_METRICS = (RESTARTS, CALLS, ROWS, WORK, WAIT)


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
        """Each counter that `samples` may add to, with its dimensions."""
        yield RESTARTS, (self._device,)
        for metric, stage in product((CALLS, ROWS, WORK, WAIT), sorted(self.stages)):
            yield metric, (stage, self._device)

    def samples(self, calls: Iterable[CallRecord]) -> Iterator[Sample]:
        """What the calls of a batch add."""
        if self._link.restarts > self._restarts:
            before, self._restarts = self._restarts, self._link.restarts
            yield RESTARTS, self._restarts - before, (self._device,)
        for call in calls:
            for stage, host in host_calls_of(call):
                at = (stage, self._device)
                yield WAIT, host.waited_s, at
                if host.first:
                    yield CALLS, 1, at
                    yield ROWS, host.rows, at
                    yield WORK, host.worked_s, at

    def times_of(self, call: CallRecord) -> tuple[dict[Stage, float], float]:
        """The seconds that the host worked for a call's rows, by stage, and the rest of the call.

        The rest is waiting: for a host, for the rows of other members, for copies.
        """
        work_s = {stage: own_work_s(call, host) for stage, host in host_calls_of(call)}
        return work_s, max(0.0, call.ended_s - call.began_s - sum(work_s.values()))

    def asked_s(self, calls: Iterable[CallRecord]) -> float:
        """Seconds of a batch in which the host had something of it to do, or was waited for."""
        return covered_s((c.began_s, c.ended_s) for c in calls if c.stage in self.stages)
