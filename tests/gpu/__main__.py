"""What scripts/test-gpu runs: tests, then throughput, then TorchServe; one report."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.gpu.lack import lack
from tests.gpu.report import ENTRIES, Entries, failed, read, write

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
REPORT = ROOT / ".run" / "gpu"

ADVICE = (
    "Needs a machine with a GPU, its driver, and a build of torch for it in .venv; "
    "if that has a CPU build, remove .venv and call again"
)

BUDGET_S = 590
"""For everything but installing."""

STEPS: Mapping[str, tuple[int, list[str]]] = {
    "tests": (360, ["-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]),
    "throughput": (150, ["-m", "tests.gpu.throughput"]),
    "served": (180, ["-m", "tests.gpu.served"]),
}
"""Each has so many seconds, if there are as many left, and a process of its own: one that loses the
device takes no other with it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; 0 if all went well, 1 if something failed, 2 if there is no GPU."""
    options = _parser().parse_args(arguments)
    missing = lack()
    if missing:
        sys.stderr.write(f"test-gpu: {missing}. {ADVICE}\n")
        return 2
    REPORT.parent.mkdir(exist_ok=True)
    path = REPORT.with_suffix(".jsonl")
    path.unlink(missing_ok=True)
    environment = {
        **os.environ,
        ENTRIES: str(path),
        # The same result for the same shape, whatever else runs on the device.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    run(STEPS if not options.only else {each: STEPS[each] for each in options.only}, environment)
    entries = read(path)
    for told in write(REPORT, _about(), entries):
        sys.stdout.write(f"{told.relative_to(ROOT)}\n")
    return int(failed(entries))


def run(steps: Mapping[str, tuple[int, list[str]]], environment: Mapping[str, str]) -> None:
    """Run one after the other, each in its time, and note how it ended."""
    entries = Entries(Path(environment[ENTRIES]))
    end_s = time.monotonic() + BUDGET_S
    for name, (limit_s, command) in steps.items():
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        started_s = time.monotonic()
        left_s = end_s - started_s
        status: int | str
        try:
            done = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env=environment,
                timeout=max(0.0, min(limit_s, left_s)),
                check=False,
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = f"ended after {min(limit_s, left_s):.0f} s"
        entries.step(name, status, time.monotonic() - started_s)


def _about() -> dict[str, str]:
    import torch

    from benchmarks.machine import describe

    gpu = torch.cuda.get_device_properties(0)
    return {
        **describe(),
        "command": "scripts/test-gpu",
        "gpu": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}",
        "driver": _driver(),
        "runtime": str(torch.version.cuda or torch.version.hip),
        "cudnn": str(torch.backends.cudnn.version()),
        "cores for this process": str(len(os.sched_getaffinity(0))),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told.stdout.strip().splitlines()[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/test-gpu",
        description="Run on one GPU what tests cannot show without: right answers under delays, "
        "overlap, the sanitizer, memory, graphs, a lost device; then measure throughput against "
        "TorchServe's own handlers, in one process and on a real server. Takes less than ten "
        "minutes. Writes .run/gpu.md and .run/gpu.json.",
        epilog="example: scripts/test-gpu --only throughput served",
    )
    parser.add_argument("--only", choices=list(STEPS), nargs="+", help="these steps")
    return parser


if __name__ == "__main__":
    sys.exit(main())
