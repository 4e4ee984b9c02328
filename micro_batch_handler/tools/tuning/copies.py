"""Other workers: the same handler in processes of their own, which run batches beside this one.

What each of them does, and says, stands in copy_process.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from threading import Timer
from types import TracebackType
from typing import IO, Any

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.tuning.batch import Batch, Call, SettingFails
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Copies", "Job"]

PROCESS = "micro_batch_handler.tools.tuning.copy_process"

PATIENCE_S = 300.0
"""For copies to load, or to run a batch."""

LOG_LINES = 10


@dataclass(frozen=True)
class Job:
    """What each copy loads."""

    source: str
    samples: Sequence[str]
    files: dict[str, str | None] = field(default_factory=dict)
    """Of a handler file, as `ModelFiles` has them."""


class Copies:
    """So many other workers, loaded. Use it in a `with` statement.

    Args:
        job: what they load.
        count: how many.
        devices: GPUs, which they share out as TorchServe's workers do; this process has the first.

    Raises:
        ArchiveError: one of them cannot load the handler.
    """

    def __init__(self, job: Job, count: int, devices: int = 0) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._started: list[subprocess.Popen[str]] = []
        try:
            for number in range(1, count + 1):
                device = number % devices if devices > 1 else None
                self._started.append(_start(job, device, self._log))
            self._told(self._started)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Copies:  # noqa: PYI034  (typing.Self needs Python 3.11)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End them."""
        for process in self._started:
            process.kill()
            process.communicate()
        self._log.close()

    @contextmanager
    def beside(self, setting: Setting) -> Iterator[list[Batch]]:
        """Run batches in all workers of a setting but this one, as long as the block lasts.

        Gives a list, which has the others' batches when the block has ended.

        Raises:
            SettingFails: a request has failed in one of them.
            ArchiveError: one of them has ended.
        """
        others = self._started[: setting.workers - 1]
        batches: list[Batch] = []
        if not others:
            yield batches
            return
        _say(others, json.dumps(_plain(setting)))
        ready = self._told(others)
        if any("failed" in answer for answer in ready):
            going = [each for each, answer in zip(others, ready, strict=True) if not answer]
            _say(going, "go")
            _say(going, "stop")
            _batches([*ready, *self._told(going)])
        _say(others, "go")
        try:
            yield batches
        finally:
            _say(others, "stop")
            told = self._told(others)
        batches += _batches(told)

    def _told(self, processes: Sequence[subprocess.Popen[str]]) -> list[Any]:
        with _patience(processes):
            return [json.loads(self._line(process)) for process in processes]

    def _line(self, process: subprocess.Popen[str]) -> str:
        line = _pipe(process.stdout).readline()
        if not line:
            self._log.seek(0)
            told = self._log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
            raise ArchiveError(
                "\n".join(["a second worker could not be run (--max-workers 1: none):", *told])
            )
        return line


def _start(job: Job, device: int | None, log: IO[bytes]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", PROCESS, json.dumps(asdict(job))]
    environment = dict(os.environ)
    if device is not None:
        shown = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = shown[device] if len(shown) > device else str(device)
    return subprocess.Popen(  # noqa: S603  (this very Python, with a job of ours)
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )


@contextmanager
def _patience(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    def end() -> None:
        for process in processes:
            process.kill()

    timer = Timer(PATIENCE_S, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(processes: Sequence[subprocess.Popen[str]], line: str) -> None:
    for process in processes:
        with suppress(BrokenPipeError):  # it has ended, which its silence will tell
            print(line, file=_pipe(process.stdin), flush=True)


def _pipe(end: IO[str] | None) -> IO[str]:
    if end is None:
        raise ValueError("started without pipes")
    return end


def _plain(setting: Setting) -> dict[str, Any]:
    """A setting of one worker, as JSON has it."""
    return {
        "batch_size": setting.batch_size,
        "sizes": setting.sizes,
        "lanes": setting.lane_counts,
        "threads": [setting.threads[stage] for stage in STAGES],
    }


def _batches(answers: Sequence[Any]) -> list[Batch]:
    """What copies have told of their batches; the failure if one of them has met one."""
    for answer in answers:
        if "failed" in answer:
            raise SettingFails(answer["failed"], regroups=answer["regroups"])
    return [
        Batch(seconds, [Call(*call) for call in calls], cpu_s, peak_bytes)
        for answer in answers
        for seconds, calls, cpu_s, peak_bytes in answer["batches"]
    ]
