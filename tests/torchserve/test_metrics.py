"""What each batch adds to the metrics, and how it is written."""

from __future__ import annotations

import logging

import pytest
import yaml
from ts.metrics import caching_metric
from ts.utils.util import PredictionException

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import (
    BodyError,
    DeadlinePassed,
    HostLost,
    HostMissing,
    StageTimeout,
)
from micro_batch_handler.pipeline.call import CallRecord
from micro_batch_handler.pipeline.outcomes import BatchRecord, Failure, Outcomes
from micro_batch_handler.torchserve.metrics.batch_metrics import METRICS, BatchMetrics
from micro_batch_handler.torchserve.metrics.host_metrics import HOST_METRICS
from micro_batch_handler.torchserve.metrics.lines import Metric, MetricLines
from micro_batch_handler.torchserve.metrics.throttle import Throttle
from tests.fakes import Plain, fake_context, plan
from tests.torchserve.emitted import OURS, THEIRS, cache_of, figures, writes

LINES = 18
"""Of a batch without failures: three of its own, and five for each stage."""


@pytest.fixture(autouse=True)
def _listening(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def metrics(caplog):
    """Of a handler with two lanes of preprocess, before its first batch."""
    lines = MetricLines(cache_of(), METRICS, undeclared=False)
    started = BatchMetrics(lines, PerStage(2, 1, 1), batch_size=8)
    started.start()
    caplog.clear()
    return started


def record(rows, sizes, calls=(), failures=None, retried=(), lasted_s=10.0, fatal=False):
    """A batch that began at 100 s."""
    outcomes = Outcomes([None] * rows, failures or {}, list(retried), fatal, list(calls))
    return BatchRecord(rows, plan(*sizes), 100.0, 100.0 + lasted_s, outcomes)


def call(stage, ready_s, began_s, ended_s, *, failed=False):
    """A call on one row."""
    return CallRecord(stage, [0], f"mbh-{stage}-0", ready_s, began_s, ended_s, failed)


def served(caplog, section, rows=6, cache=None, **methods):
    """What is written for one batch of a real handler, from its load on."""
    handler = type("H", (Plain,), methods)()
    load = fake_context(0, model_yaml={"micro_batching": section}, batch_size=8)
    load.metrics = cache or cache_of()
    handler.initialize(load)
    batch = fake_context(rows)
    batch.metrics = load.metrics
    answers = handler.handle([{"body": number} for number in range(rows)], batch)
    assert len(answers) == rows
    return figures(caplog)


def test_metrics_yaml_declares_what_is_written():
    """Every metric stands there with its kind, unit and dimensions, and no other of ours."""
    sections = yaml.safe_load(OURS.read_text(encoding="utf-8"))["model_metrics"]

    declared = {
        (kind, each["name"], each["unit"], *each["dimensions"])
        for kind, metrics in sections.items()
        for each in metrics
        if each["name"].startswith("mbh_")
    }
    assert declared == {
        (each.kind, each.name, each.unit, *each.dimensions, "ModelName", "Level")
        for each in METRICS
    }


def test_metrics_yaml_keeps_torchserves_own():
    """Who serves with this file loses none of the figures that TorchServe has by itself."""
    ours, theirs = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (OURS, THEIRS))

    assert ours["ts_metrics"] == theirs["ts_metrics"]
    for kind, metrics in theirs["model_metrics"].items():
        assert all(each in ours["model_metrics"][kind] for each in metrics)


def test_times_of_a_stage(metrics, caplog):
    """Work is what calls took, wait what they could have begun earlier, idle the rest of lanes."""
    calls = [
        call("preprocess", 100, 100, 103),
        call("preprocess", 100, 101, 104),
        call("inference", 103, 104, 106),
        call("postprocess", 106, 106, 106),
    ]
    for stage, _, _, began_s, ended_s in [(c.stage, *c[2:4], c.began_s, c.ended_s) for c in calls]:
        metrics.observe(stage, 1, ended_s - began_s)
    metrics.add(record(2, (1, 2, 2), calls))

    found = figures(caplog)
    assert [found["mbh_stage_work_seconds_total", stage] for stage in STAGES] == [6, 2, 0]
    assert [found["mbh_stage_wait_seconds_total", stage] for stage in STAGES] == [1, 1, 0]
    assert [found["mbh_stage_idle_seconds_total", stage] for stage in STAGES] == [14, 8, 10]
    assert [found["mbh_stage_calls_total", stage] for stage in STAGES] == [2, 1, 1]


def test_work_on_a_device_is_the_devices_time(metrics, caplog):
    """A call that Python left after 0.1 s and that the device did in 3 s has worked for 3 s."""
    metrics.observe("inference", 8, 3.0)
    metrics.add(record(8, (8,), [call("inference", 100, 100, 100.1)]))

    assert figures(caplog)["mbh_stage_work_seconds_total", "inference"] == 3
    assert figures(caplog)["mbh_stage_idle_seconds_total", "inference"] == 7


def test_a_stage_is_never_busier_than_its_lanes(metrics, caplog):
    """Work that overlaps on the device does not make idle time negative, nor the share above 1."""
    metrics.observe("inference", 8, 25.0)
    metrics.add(record(8, (8,)))

    assert figures(caplog)["mbh_stage_idle_seconds_total", "inference"] == 0


def test_calls_that_fail_are_work(metrics, caplog):
    """A stage that mostly fails is busy, too."""
    metrics.add(record(1, (1,), [call("inference", 100, 100, 104, failed=True)]))

    assert figures(caplog)["mbh_stage_work_seconds_total", "inference"] == 4


def test_a_batch_and_its_plan(metrics, caplog):
    """Requests, how full the batch was, how long it took, how it was cut."""
    metrics.add(record(6, (1, 4, 32), lasted_s=0.25))

    found = figures(caplog)
    assert found["mbh_requests_total",] == 6
    assert found["mbh_batch_fill_ratio",] == 0.75
    assert found["mbh_batch_duration_seconds", "split"] == 0.25
    assert [found["mbh_micro_batch_size", stage] for stage in STAGES] == [1, 4, 6]


def test_a_batch_that_stays_whole_says_so(metrics, caplog):
    """Batches that were cut and batches that were not can be told apart, with their times."""
    metrics.add(record(6, (6,)))

    assert ("mbh_batch_duration_seconds", "whole") in figures(caplog)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PredictionException("no", 422), "refused"),
        (ValueError(), "error"),
        (BodyError("preprocess", "no JSON"), "body"),
        (StageTimeout("inference", 30), "timeout"),
        (DeadlinePassed("inference"), "deadline"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device_lost"),
        (HostLost("inference"), "host_lost"),
        (HostMissing("inference"), "host_missing"),
    ],
)
def test_failures_are_counted_by_stage_and_reason(metrics, caplog, error, reason):
    """Failed requests one by one, calls that were made again once each."""
    failure = Failure("inference", error, [1, 2])
    metrics.add(record(4, (4,), failures={1: failure, 2: failure}, retried=[failure]))

    found = figures(caplog)
    assert found["mbh_failed_requests_total", "inference", reason] == 2
    assert found["mbh_retried_calls_total", "inference", reason] == 1


@pytest.mark.parametrize("size", [8, 4, 2, 1])
def test_a_batch_is_one_write_of_as_many_lines_however_it_is_cut(metrics, caplog, size):
    """The cost of metrics does not grow with the number of micro-batches."""
    calls = [call(stage, 100, 100, 101) for stage in STAGES for _ in range(8 // size)]
    metrics.add(record(8, (size,), calls))

    assert [len(lines) for lines in writes(caplog)] == [LINES]


def test_batches_that_come_at_once_share_a_write(caplog):
    """Under load a batch adds two lines, which go into buckets; the rest is added up."""
    later = []

    def throttle(write, every_s):
        return Throttle(write, every_s, lambda: 0.0, lambda _, catch_up: later.append(catch_up))

    lines = MetricLines(cache_of(), METRICS, undeclared=False)
    metrics = BatchMetrics(lines, PerStage(2, 1, 1), 8, throttle)
    for _ in range(3):
        metrics.add(record(8, (2,)))
    (write,) = later
    write()

    assert figures(caplog)["mbh_requests_total",] == 24
    assert [len(lines) for lines in writes(caplog)] == [LINES, LINES + 2]


def test_the_last_batch_of_a_worker_is_written_at_once(metrics, caplog):
    """A worker whose device is lost ends, and nothing that waited would be written any more."""
    metrics.add(record(8, (2,)))
    failures = {0: Failure("inference", RuntimeError("CUDA error: device-side assert"), [0])}
    metrics.add(record(8, (2,), failures=failures, fatal=True))

    assert figures(caplog)["mbh_failed_requests_total", "inference", "device_lost"] == 1


def test_what_is_written_first_and_last(metrics, caplog):
    """The frontend takes line by line: who reads the requests of a batch reads all else of it.

    And behind the text of a handler that prints, it is a gauge that would be lost.
    """
    failures = {0: Failure("inference", ValueError(), [0])}
    metrics.add(record(4, (2,), failures=failures, retried=failures.values()))

    (lines,) = writes(caplog)
    assert lines[0].startswith("[METRICS]mbh_micro_batch_size.Count:2|")
    assert lines[-1].startswith("[METRICS]mbh_requests_total.Count:4|")


def test_counters_start_at_zero(caplog):
    """Each that a batch may add to is written when the model loads: from nothing, no rate rises."""
    cache = cache_of()
    started = BatchMetrics(MetricLines(cache, METRICS, undeclared=False), PerStage(1, 1, 1), 8)
    started.observe("inference", 8, 1.0)  # a call that warms up
    started.start()

    at_load = figures(caplog)
    assert not any(at_load.values())
    failures = {0: Failure("postprocess", ValueError(), [0])}
    started.add(record(1, (1,), failures=failures, retried=failures.values()))
    added = {key for key in figures(caplog) if key[0].endswith("_total")}
    assert added <= at_load.keys()
    assert figures(caplog)["mbh_stage_work_seconds_total", "inference"] == 0


@pytest.mark.parametrize("size", [2, "auto"])
def test_a_handler_counts_its_requests_and_its_work(caplog, size):
    """From a real batch, with sizes that are given and with those that are learned."""
    found = served(caplog, {"micro_batch_size": size})

    assert found["mbh_requests_total",] == 6
    assert found["mbh_batch_fill_ratio",] == 0.75
    assert all(found["mbh_stage_work_seconds_total", stage] > 0 for stage in STAGES)


def test_plans_are_learned_beside_metrics(caplog):
    """The planner goes on hearing what calls take: it logs the plan that follows from that."""
    caplog.set_level("INFO")
    handler = Plain()
    load = fake_context(0, batch_size=8)
    load.metrics = cache_of()
    handler.initialize(load)

    for _ in range(200):
        batch = fake_context(8)
        batch.metrics = load.metrics
        handler.handle([{"body": number} for number in range(8)], batch)

    assert any(text.startswith("micro-batching 8 requests as") for text in caplog.messages)


def test_a_fault_that_is_isolated_is_counted_once(caplog):
    """One request of a micro-batch of six fails, its call is made again in parts."""

    def inference(self, batch):
        if 3 in batch:
            raise ValueError
        return batch

    found = served(caplog, {"micro_batch_size": 6}, inference=inference)

    assert found["mbh_failed_requests_total", "inference", "error"] == 1
    assert found["mbh_retried_calls_total", "inference", "error"] == 1
    assert found["mbh_stage_calls_total", "inference"] > 3


def test_a_server_that_declares_none_gets_none(caplog):
    """With TorchServe's own metrics.yaml the frontend would drop each line; one line says why."""
    assert served(caplog, {}, cache=cache_of(THEIRS)) == {}
    assert sum("metrics.yaml declares none" in text for text in caplog.messages) == 1


def test_undeclared_metrics_on_demand(caplog):
    """`metrics: true` is for a frontend that detects metrics by itself."""
    found = served(caplog, {"metrics": True}, cache=cache_of(THEIRS))

    of_host = {each.name for each in HOST_METRICS}  # of handlers with `share_model`
    assert {key[0] for key in found} == {each.name for each in METRICS} - of_host


def test_metrics_can_be_turned_off(caplog):
    """`metrics: false` writes nothing, whatever the server declares."""
    assert served(caplog, {"metrics": False}) == {}


def metrics_yaml(tmp_path, **metric):
    """A metrics.yaml with one metric of ours."""
    metric = {"name": "mbh_stage_calls_total", "unit": "Count", **metric}
    path = tmp_path / "metrics.yaml"
    path.write_text(yaml.safe_dump({"model_metrics": {"counter": [metric]}}), encoding="utf-8")
    return path


def test_dimensions_are_written_as_the_server_declares_them(caplog, tmp_path):
    """The frontend takes them by place: another order or fewer must be followed."""
    cache = cache_of(metrics_yaml(tmp_path, dimensions=["Level", "ModelName"]))

    found = served(caplog, {"micro_batch_size": 2}, cache=cache)

    assert found == {("mbh_stage_calls_total",): 9}
    assert all("|#Level:Model,ModelName:model|" in line for line in writes(caplog)[-1])


def test_a_dimension_that_there_is_not_is_told(caplog, tmp_path):
    """Such a metric is left out, with a warning that names it, and the batch is answered."""
    cache = cache_of(metrics_yaml(tmp_path, dimensions=["Colour", "ModelName", "Level"]))

    assert served(caplog, {}, cache=cache) == {}
    assert any("dimension Colour; it has Stage, ModelName, Level" in m for m in caplog.messages)


def test_figures_between_two_writes(caplog):
    """Of counters comes the sum, of gauges the last, of histograms each."""
    kinds = {
        kind: Metric(f"mbh_{kind}", kind, "Count") for kind in ("counter", "gauge", "histogram")
    }
    lines = MetricLines(cache_of(), list(kinds.values()), undeclared=True)

    lines.add((metric, value, ()) for value in (2, 5) for metric in kinds.values())
    lines.write()
    lines.write()

    (written,) = writes(caplog)
    shown = [line.split("|")[0].removeprefix("[METRICS]mbh_") for line in written]
    assert shown == ["counter.Count:7", "gauge.Count:5", "histogram.Count:2", "histogram.Count:5"]


@pytest.mark.parametrize("value", [0, 3, 10**12, 0.0, 1e-9, 123456.789, 1e17])
def test_the_frontend_can_read_any_number(caplog, value):
    """Its pattern has no plus sign, so no number is written with an exponent."""
    metric = Metric("mbh_some_total", "counter", "Count")
    lines = MetricLines(cache_of(), [metric], undeclared=True)

    lines.add([(metric, value, ())])
    lines.write()

    assert figures(caplog)["mbh_some_total",] == pytest.approx(value, abs=1e-6)


def test_a_line_is_what_torchserves_cache_writes(caplog, monkeypatch):
    """But for the request ids, which are not written, the text is the same to the byte."""
    monkeypatch.setattr("time.time", lambda: 1234.5)
    metric = next(each for each in METRICS if each.name == "mbh_stage_calls_total")
    cache = cache_of()
    lines = MetricLines(cache, METRICS, undeclared=False)

    lines.add([(metric, 7, ("inference",))])
    lines.write()
    declared = cache.get_metric(metric.name, caching_metric.MetricTypes.COUNTER)
    declared.add_or_update(7, ["inference", "model", "Model"])

    ours, theirs = writes(caplog)
    assert ours == theirs
