"""On a real TorchServe: the figures at /metrics add up, and stand beside the server's own."""

from __future__ import annotations

import re

import pytest

from harness.crowd import crowd
from harness.wait import until
from tests.torchserve.emitted import THEIRS

pytestmark = pytest.mark.server

ROWS = 4
CLIENTS = 8
TURNS = 10
WORKERS = 2
SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def samples(server, model):
    """What /metrics has of one model: (name, values of its own labels) -> value."""
    with server.rest() as client:
        page = client.metrics()
    found = {}
    for name, labels, value in SAMPLE.findall(page):
        pairs = dict(LABEL.findall(labels))
        if pairs.pop("ModelName", None) == model:
            own = (pairs[key] for key in pairs if key not in {"Level", "Hostname"})
            found[(name, *own)] = float(value)
    return found


def total(found, name):
    """The sum over all labels of a metric."""
    return sum(value for key, value in found.items() if key[0] == name)


def counted(model, requests):
    """The samples, once the frontend has read what the workers print behind their answers."""

    def all_there():
        return samples(model.server, model.name).get(("mbh_requests_total",)) == requests

    until(all_there, f"{requests} requests at /metrics")
    # Once more: while that page was made, lines could arrive after their metric's place on it.
    return samples(model.server, model.name)


def served(server, config, **registration):
    """A Faulty with a micro-batch of two requests."""
    section = {"micro_batch_size": 2, **config}
    registration = {"batch_size": ROWS, "max_batch_delay": 5, **registration}
    return server.model("faulty", {"micro_batching": section}, **registration)


def send(model, fault=None):
    """All clients send all their requests, every fifth with the fault; gives back how many."""

    def turn(client, number, done):
        bad = fault is not None and (number + done) % 5 == 0
        body = {"number": number, **(fault if bad else {})}
        return client.predict(model.name, json=body).status_code

    statuses = crowd(model.server, CLIENTS, turn, turns=TURNS)
    return len(statuses), sum(status != 200 for status in statuses)


def test_figures_add_up_over_workers(server):
    """Requests counted are requests sent, faults counted are faults sent, time has no hole."""
    with served(server, {}, initial_workers=WORKERS) as model:
        sent, bad = send(model, {"stage": "inference", "kind": "ValueError"})
        sent, refused = sent + 10, 10
        for _ in range(refused):
            model.predict(json={"number": 1, "stage": "preprocess", "kind": "PredictionException"})
        found = counted(model, sent)

    assert bad == CLIENTS * TURNS / 5
    assert found["mbh_failed_requests_total", "inference", "error"] == bad
    assert found["mbh_failed_requests_total", "preprocess", "refused"] == refused
    assert total(found, "mbh_failed_requests_total") == bad + refused
    assert found["mbh_batch_fill_ratio_sum",] == pytest.approx(sent / ROWS)
    batches = found["mbh_batch_fill_ratio_count",]
    assert total(found, "mbh_batch_duration_seconds_count") == batches
    duration_s = total(found, "mbh_batch_duration_seconds_sum")
    for stage in ("preprocess", "inference", "postprocess"):
        work_s = found["mbh_stage_work_seconds_total", stage]
        assert work_s > 0
        # One lane each, and a millionth lost by rounding of each figure.
        assert work_s + found["mbh_stage_idle_seconds_total", stage] == pytest.approx(
            duration_s, abs=3e-6 * batches
        )
        assert found["mbh_stage_calls_total", stage] >= (batches if stage != "postprocess" else 1)
        assert found["mbh_micro_batch_size", stage] in (1, 2)
    assert ("HandlerTime",) in found


def test_a_handler_without_metrics(server):
    """`metrics: false` leaves the server's own figures and nothing of ours."""
    with served(server, {"metrics": False}) as model:
        send(model)
        found = until(lambda: samples(server, model.name), "the server's own metrics")

    assert not [name for name, *_ in found if name.startswith("mbh_")]


@pytest.fixture(scope="module")
def plain_server(java):
    """A server with TorchServe's own metrics.yaml, which detects metrics by itself."""
    from harness.torchserve import TorchServe

    properties = {"metrics_config": str(THEIRS), "model_metrics_auto_detect": "true"}
    with TorchServe(properties) as one:
        yield one


def test_a_server_with_a_metrics_file_of_its_own(plain_server):
    """Where our metrics are not declared nothing fails, and one line in the log says why."""
    with served(plain_server, {}) as model:
        sent, _ = send(model)
        found = samples(plain_server, model.name)

    assert sent == CLIENTS * TURNS
    assert not [name for name, *_ in found if name.startswith("mbh_")]
    plain_server.wait_for_log("metrics.yaml declares none")
    assert plain_server.log().count("metrics.yaml declares none") == 1
    assert "mbh_" not in plain_server.log("ts_log.log") + plain_server.log()


def test_a_server_that_detects_metrics_by_itself(plain_server):
    """With `metrics: true` it has the same figures, without a file."""
    with served(plain_server, {"metrics": True}) as model:
        sent, _ = send(model)
        found = counted(model, sent)

    assert found["mbh_batch_fill_ratio_sum",] == pytest.approx(sent / ROWS)
    assert found["mbh_stage_work_seconds_total", "inference"] > 0
