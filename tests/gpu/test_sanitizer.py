"""PyTorch's sanitizer, entered in every lane, finds no access that streams do not order."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def run(how: str, case: str) -> dict:
    """What the sanitizer tells, from a process of its own."""
    command = [sys.executable, "-m", "tests.gpu.sanitizer", how, case]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["as it comes", "copies out too", "two lanes of inference"])
def test_the_sanitizer_finds_nothing(note, case):
    """It watches kernels in all lanes, and each access is ordered after the one before."""
    told = run("as-it-is", case)

    note("Sanitizer", case=case, findings=told["findings"], kernels=told["kernels"])
    assert told["right"]
    assert {name.split("-")[1] for name in told["kernels"]} >= {"preprocess", "inference"}
    assert not told["findings"], told["found"]


def test_the_sanitizer_sees_streams_that_do_not_wait():
    """With waiting switched off it finds the copies in that inference reads too early."""
    told = run("deaf", "as it comes")

    assert told["findings"]
