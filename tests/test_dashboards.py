"""The dashboard, the scrape file and the alerts, by Prometheus's own programs on a real server."""

from __future__ import annotations

import json
import math
import re
import subprocess
import threading

import pytest

from harness.crowd import crowd
from harness.prometheus import Prometheus, program
from harness.settings import ROOT
from harness.wait import until
from micro_batch_handler.torchserve.metrics.batch_metrics import METRICS

DASHBOARDS = ROOT / "dashboards"
BOARD = json.loads((DASHBOARDS / "grafana.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
ALERTS = (DASHBOARDS / "alerts.yml").read_text(encoding="utf-8")

RATE_INTERVAL = "1m"
"""What Grafana would take for `$__rate_interval`, longer than the test."""

DATA_S = 60
ROWS = 4
FAULT = {"stage": "inference", "kind": "ValueError"}


@pytest.fixture(scope="module")
def promtool():
    """Runs promtool; gives back whether it was content, and what it said."""
    if program("promtool") is None:
        pytest.skip("promtool is missing (Debian, Ubuntu: apt-get install prometheus)")

    def run(*arguments):
        command = [program("promtool"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    return run


def test_promtool_accepts_the_configuration(promtool):
    """The scrape file and the alerts that it names are what Prometheus reads."""
    content, said = promtool("check", "config", str(DASHBOARDS / "prometheus.yml"))

    assert content, said
    assert "1 rule files found" in said


def test_alerts_are_raised_at_their_limits_and_not_below(promtool):
    """Prometheus plays made-up series against the rules (tests/alerts_test.yml)."""
    content, said = promtool("test", "rules", str(ROOT / "tests" / "alerts_test.yml"))

    assert content, said


def test_only_metrics_that_there_are_are_asked_for():
    """A metric that is renamed must be renamed in the dashboard and the alerts, too."""
    known = {metric.name for metric in METRICS}
    parts = {f"{m.name}_{end}" for m in METRICS for end in ("sum", "count", "bucket")}
    asked = set(re.findall(r"mbh_\w+", json.dumps(BOARD) + ALERTS))

    assert asked <= known | parts
    assert {name for name in known if not any(each.startswith(name) for each in asked)} == set()


def test_panels_explain_themselves_and_do_not_overlap():
    """Each has a title of its own and a sentence that says how to read it."""
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert all(panel["description"].endswith(".") for panel in PANELS)
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


@pytest.fixture(scope="module")
def scraped(server, tmp_path_factory):
    """A Prometheus that scrapes the server, where two workers answer good requests and bad ones."""
    if program("prometheus") is None:
        pytest.skip("prometheus is missing (Debian, Ubuntu: apt-get install prometheus)")
    section = {"micro_batch_size": {"preprocess": 1, "inference": 2}, "share_model": True}
    config = {"micro_batching": section}
    stop = threading.Event()

    def turn(client, number, done):
        return client.predict(model.name, json={"number": number, **({} if done % 9 else FAULT)})

    with (
        server.model(
            "faulty", config, batch_size=ROWS, max_batch_delay=5, initial_workers=2
        ) as model,
        Prometheus(
            tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{server.ports.metrics}"
        ) as prometheus,
    ):
        load = threading.Thread(target=crowd, args=(server, 4, turn), kwargs={"stop": stop})
        load.start()
        try:
            yield model, prometheus
        finally:
            stop.set()
            load.join()


def variables(model):
    """What Grafana puts in for the dashboard's variables: one model, and `All` servers."""
    chosen = {"instance": ".*", "model": model.name, "__rate_interval": RATE_INTERVAL}
    assert chosen.keys() >= {v["name"] for v in BOARD["templating"]["list"]} - {"datasource"}
    return chosen


def put_in(text, values):
    """The text with `$name` replaced."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], text)


@pytest.mark.server
@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_the_dashboard_has_data(scraped, title, expression):
    """Prometheus answers every query of every panel with numbers."""
    model, prometheus = scraped
    query = put_in(expression, variables(model))

    def numbers():
        return [float(series["value"][1]) for series in prometheus.query(query)]

    found = until(
        lambda: (values := numbers()) and all(map(math.isfinite, values)) and values,
        f"data for {title}: {query}",
        DATA_S,
    )
    assert min(found) >= 0
    ratio = next(p for p in PANELS if p["title"] == title)["fieldConfig"]["defaults"]["unit"]
    assert ratio != "percentunit" or max(found) <= 1


@pytest.mark.server
def test_the_dashboard_finds_its_variables(scraped):
    """Its lists of servers and models have what Prometheus has scraped."""
    model, prometheus = scraped
    here = {"instance": f"127.0.0.1:{model.server.ports.metrics}", "model": model.name}
    for variable in BOARD["templating"]["list"][1:]:
        asked = put_in(variable["query"]["query"], variables(model))
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", asked).groups()
        until(
            lambda: here[variable["name"]] in prometheus.label_values(label, selector),  # noqa: B023
            f"{here[variable['name']]} among {asked}",
            DATA_S,
        )


@pytest.mark.server
def test_prometheus_evaluates_every_alert(scraped):
    """No rule fails on real series, and the one for failed requests sees them fail."""
    _, prometheus = scraped

    def evaluated():
        rules = prometheus.rules()
        return rules if all(rule["health"] != "unknown" for rule in rules) else []

    rules = until(evaluated, "evaluated rules", DATA_S)
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
    until(
        lambda: [r for r in prometheus.rules() if r["name"] == "RequestsFail" and r["alerts"]],
        "a pending alert for failed requests",
        DATA_S,
    )
