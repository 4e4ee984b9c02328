"""scripts/benchmark end to end: real servers, answers checked, loaded, figures written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
    table = result.with_suffix(".md").read_text(encoding="utf-8")
    assert "| vector | requests/s | TorchServe's BaseHandler | at least 3 |" in table
    assert table in ran.stdout
