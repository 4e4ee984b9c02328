"""Several workers at once: the same handler in as many processes, running batches side by side.

python -m micro_batch_handler.tools.tuning.copies JOB

loads, runs a batch            says "ready"
waits for a line on stdin      so that all begin together
runs batches                   says what they took, as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Timer
from typing import IO

from micro_batch_handler.config import PerStage
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.model_folder import ModelFiles
from micro_batch_handler.tools.tuning.batch import Batch, Visit
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Job", "main", "run_copies"]

PATIENCE_S = 300.0
"""For a copy to load and run its batches."""

LEAST_BATCHES = 3

LOG_LINES = 10


@dataclass(frozen=True)
class Job:
    """What each copy does."""

    source: str
    samples: Sequence[str]
    seconds: float
    files: dict[str, str | None] = field(default_factory=dict)
    """Of a handler file, as `ModelFiles` has them."""


def run_copies(job: Job, setting: Setting, copies: int) -> list[Visit]:
    """What batches take in each of so many processes, all at once.

    Raises:
        ArchiveError: one of them ends before it has told.
    """
    given = {
        **asdict(job),
        "batch_size": setting.batch_size,
        "sizes": setting.sizes,
        "lanes": setting.lane_counts,
    }
    command = [sys.executable, "-m", __name__, json.dumps(given)]
    with tempfile.TemporaryFile() as log:
        started: list[subprocess.Popen[str]] = []
        try:
            for _ in range(copies):
                started.append(_start(command, log))  # noqa: PERF401  (those started are ended)
            with _patience(started):
                for process in started:
                    _line(process, log)
                for process in started:
                    print("go", file=_pipe(process.stdin), flush=True)
                return [_visit(_line(process, log)) for process in started]
        finally:
            for process in started:
                process.kill()
                process.communicate()


def _start(command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603  (this very Python, with a job of ours)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
    )


@contextmanager
def _patience(started: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    def end() -> None:
        for process in started:
            process.kill()

    timer = Timer(PATIENCE_S, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _line(process: subprocess.Popen[str], log: IO[bytes]) -> str:
    line = _pipe(process.stdout).readline()
    if not line:
        log.seek(0)
        told = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        raise ArchiveError("\n".join(["a second worker could not be run:", *told]))
    return line


def _pipe(end: IO[str] | None) -> IO[str]:
    if end is None:
        raise ValueError("started without pipes")
    return end


def _visit(line: str) -> Visit:
    told = json.loads(line)
    return Visit([Batch(seconds, (), 0.0, told["peak_bytes"]) for seconds in told["seconds"]])


def main(argv: Sequence[str]) -> None:
    """What one copy does; its stdout has two lines, whatever the handler prints."""
    from micro_batch_handler.tools.tuning.bench import HandlerBench
    from micro_batch_handler.tools.workbench import Workbench

    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    job = json.loads(argv[0])
    setting = Setting(job["batch_size"], tuple(job["sizes"]), PerStage(*job["lanes"]))
    with Workbench(Path(job["source"]), ModelFiles(**job["files"])) as workbench:
        bench = HandlerBench(workbench, [Path(sample) for sample in job["samples"]])
        bench.visit(setting)
        print("ready", file=out, flush=True)
        sys.stdin.readline()
        batches: list[Batch] = []
        until_s = time.monotonic() + job["seconds"]
        while len(batches) < LEAST_BATCHES or time.monotonic() < until_s:
            batches += bench.visit(setting).batches
    told = {
        "seconds": [batch.seconds for batch in batches],
        "peak_bytes": max(batch.peak_bytes for batch in batches),
    }
    print(json.dumps(told), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
