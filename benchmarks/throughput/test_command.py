"""scripts/benchmark end to end: real servers, answers checked, loaded, figures written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.throughput.memory import memory_bytes, worker_pids
from benchmarks.throughput.servers import stand
from benchmarks.throughput.workloads import WORKLOADS
from harness.load import load_of
from harness.settings import ROOT

pytestmark = pytest.mark.server


def test_a_short_run_leaves_its_figures(java, tmp_path):
    """Two handlers answer a JSON workload right, and the files say how fast, on what, and how."""
    result = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.throughput", "--workloads", "vector"]
    command += ["--contenders", "ours", "base", "--rounds", "1", "--seconds", "1", "--warm-up", "0"]

    ran = subprocess.run(
        [*command, "--result", str(result)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    found = json.loads(result.read_text(encoding="utf-8"))
    assert {"machine", "torchserve", "commit", "command", "date", "load"} <= found.keys()
    (workload,) = found["workloads"]
    ours, base = workload["contenders"]
    assert ["MicroBatchHandler", "TorchServe's BaseHandler"] == [
        ours["contender"],
        base["contender"],
    ]
    for each in (ours, base):
        assert len(each["samples"]) == 1
        assert all(one["requests"] > 0 and one["refused"] == 0 for one in each["samples"])
        assert each["memory_bytes"] > 0
    table = result.with_suffix(".md").read_text(encoding="utf-8")
    row = "| vector | requests/s | MicroBatchHandler | TorchServe's BaseHandler | at least 3 |"
    assert row in table
    assert table in ran.stdout


def test_all_workers_of_a_candidate_are_ready_when_it_is_served(java, tmp_path):
    """`minWorkers` of a candidate is the number of processes that are ready and have memory."""
    workload = WORKLOADS["vector"]
    base = next(each for each in workload.contenders if each.key == "base")
    candidate = {"minWorkers": 2, "maxWorkers": 2}

    with (
        load_of(workload.bodies(), workload.content_type, workload.clients) as load,
        stand(workload, base, tmp_path / "device") as server,
        server.serving(candidate, load) as served,
    ):
        with served.server.rest() as client:
            (described,) = client.describe(served.model).json()
        ready = [int(each["pid"]) for each in described["workers"] if each["status"] == "READY"]

        assert 2 == len(ready)
        assert sorted(ready) == worker_pids(served.server)
        assert memory_bytes(served.server) > 0
    assert (2, 2) == (described["minWorkers"], described["maxWorkers"])
