"""What the calls of the model host add to the metrics of its members."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.pipeline.outcomes import BatchRecord, Outcomes
from micro_batch_handler.torchserve.metrics.batch_metrics import METRICS, BatchMetrics
from micro_batch_handler.torchserve.metrics.host_metrics import HostMetrics
from micro_batch_handler.torchserve.metrics.lines import MetricLines
from tests.fakes import plan
from tests.torchserve.emitted import cache_of, figures, writes


@pytest.fixture(autouse=True)
def _listening(caplog):
    caplog.set_level(logging.INFO)


def at_once(write, _every_s):
    """A throttle that lets every write pass."""
    return SimpleNamespace(ask=write)


class Member:
    """The metrics of a worker with four lanes that wait for the host, on GPU 1."""

    def __init__(self, stages=("inference",)):
        self.link = SimpleNamespace(restarts=0)
        lines = MetricLines(cache_of(), METRICS, undeclared=False)
        host = HostMetrics(stages, 1, self.link)
        self.metrics = BatchMetrics(lines, PerStage(1, 4, 1), 8, at_once, host)
        self.metrics.start()

    def add(self, *calls, lasted_s=10.0):
        """A batch of eight that began at 100 s, with these calls."""
        outcomes = Outcomes([None] * 8, {}, [], calls=calls)
        self.metrics.add(BatchRecord(8, plan(4), 100.0, 100.0 + lasted_s, outcomes))


def hosted(first_row, began_s, ended_s, host, *, ready_s=None, stage="inference", failed=False):
    """A call on four rows."""
    rows = range(first_row, first_row + 4)
    times = (began_s if ready_s is None else ready_s, began_s, ended_s)
    return CallRecord(stage, rows, "mbh-inference-0", *times, failed, host)


def of_stage(caplog, name, stage="inference"):
    """A figure of a stage."""
    return figures(caplog)[f"mbh_stage_{name}_total", stage]


def of_host(caplog, name, *stage):
    """A figure of the host on GPU 1."""
    return figures(caplog)[(f"mbh_host_{name}_total", *(stage or ["inference"]), "1")]


def test_a_host_call_of_several_members_is_counted_once(caplog):
    """By the member that has its first part, over all members; each counts what it waited."""
    shared = HostCall(12, 3, True, 101.0, 102.0, 105.0)
    one, other = Member(), Member()
    one.add(hosted(0, 101.0, 105.0, shared), hosted(4, 101.5, 105.0, shared._replace(first=False)))
    other.add(hosted(0, 101.8, 105.0, shared._replace(first=False, came_s=101.8)))

    assert of_host(caplog, "calls") == 1
    assert of_host(caplog, "rows") == 12
    assert of_host(caplog, "work_seconds") == 3
    assert of_host(caplog, "wait_seconds") == pytest.approx(1 + 1 + 0.2)


def test_the_work_of_a_hosted_stage_is_the_rows_part_of_the_host_call(caplog):
    """Waiting in the host is no work, and what the lanes observe of it is not added."""
    member = Member()
    member.metrics.observe("inference", 4, 6.0)
    member.add(hosted(0, 101.0, 107.0, HostCall(16, 4, True, 101.5, 103.0, 107.0), ready_s=100.5))

    assert of_stage(caplog, "work_seconds") == 1
    assert of_stage(caplog, "wait_seconds") == 0.5 + 5
    assert of_stage(caplog, "idle_seconds") == 10 - 6
    assert of_stage(caplog, "idle_seconds", "preprocess") == 10


def test_a_hosted_stage_is_idle_when_none_of_its_lanes_asks(caplog):
    """Lanes that wait for the same host at the same time do not multiply the time of the batch."""
    member = Member()
    calls = [
        hosted(0, 101.0, 104.0, HostCall(4, 1, True, 101.0, 101.0, 104.0)),
        hosted(4, 102.0, 106.0, HostCall(4, 1, True, 102.0, 104.0, 106.0)),
        hosted(0, 108.0, 109.0, None, failed=True),
    ]
    member.add(*calls)

    assert of_stage(caplog, "work_seconds") == 3 + 2
    assert of_stage(caplog, "wait_seconds") == 2 + 1
    assert of_stage(caplog, "idle_seconds") == 10 - 6


def test_two_hosted_stages_are_told_apart(caplog):
    """Rows have passed a host call of preprocess, and with other neighbours that of inference."""
    member = Member(("preprocess", "inference"))
    before = HostCall(4, 1, True, 101.0, 101.5, 103.5)
    member.add(
        hosted(0, 101.0, 101.0, None, stage="preprocess"),
        hosted(0, 101.0, 106.0, HostCall(8, 2, False, 101.0, 104.0, 106.0, before=before)),
    )

    assert (
        of_host(caplog, "work_seconds", "preprocess")
        == of_stage(caplog, "work_seconds", "preprocess")
        == 2
    )
    assert of_host(caplog, "calls", "inference") == 0
    assert of_host(caplog, "wait_seconds", "inference") == 0.5
    assert of_stage(caplog, "work_seconds") == 1
    assert of_stage(caplog, "wait_seconds") == 5 - 2 - 1


def test_restarts_are_counted_by_the_member_that_made_them(caplog):
    """Once each, with the next batch."""
    member = Member()
    for restarts in (0, 1, 1, 3):
        member.link.restarts = restarts
        member.add()

    assert figures(caplog)["mbh_host_restarts_total", "1"] == 3


def test_counters_of_the_host_start_at_zero(caplog):
    """From nothing, no rate rises; a handler without a host writes none of them."""
    Member()
    at_load = {key for key in figures(caplog) if key[0].startswith("mbh_host_")}
    caplog.clear()
    lines = MetricLines(cache_of(), METRICS, undeclared=False)
    BatchMetrics(lines, PerStage.of(1), 8).start()

    assert len(at_load) == 5
    assert not any("mbh_host_" in line for lines in writes(caplog) for line in lines)
    assert ("mbh_stage_work_seconds_total", STAGES[0]) in figures(caplog)


def test_a_batch_adds_four_lines_for_its_host_however_many_calls_it_asks(caplog):
    """The cost of metrics does not grow with the number of micro-batches."""
    member = Member()
    caplog.clear()
    for _ in range(5):
        call = HostCall(4, 1, True, 101.0, 101.0, 104.0)
        member.add(*(hosted(0, 101.0, 104.0, call) for _ in range(3)))

    first = [line for line in writes(caplog)[0] if "mbh_host_" in line]
    assert len(first) == 4
