"""Other workers: the same handler in processes of their own, which run batches beside this one.

Each is a worker_process.py, and is told what to do through a pipe.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, NamedTuple

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import MeasuredBatch, SettingFails
from micro_batch_handler.tools.workbench.model_folder import ModelFiles

__all__ = ["GO", "STOP", "Job", "OtherWorkers", "other_workers"]

PROCESS = "micro_batch_handler.tools.tuning.worker_process"
GO, STOP = "go", "stop"

PATIENCE_S = 300.0
"""For a worker to load, or to run a batch."""

LOG_LINES = 10


@dataclass(frozen=True)
class Job:
    """What each worker loads; paths are absolute."""

    source: Path
    samples: Sequence[Path]
    files: ModelFiles


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection


class OtherWorkers:
    """So many other workers, loaded, and where they log."""

    def __init__(self, workers: Sequence[_Worker], log: IO[bytes]) -> None:
        self._workers = workers
        self._log = log

    @contextmanager
    def beside(self, setting: Setting) -> Iterator[list[MeasuredBatch]]:
        """Run batches in all workers of a setting but this one, as long as the block lasts.

        Gives a list, which has the others' batches when the block has ended.

        Raises:
            SettingFails: a request has failed in one of them.
            ArchiveError: one of them has ended.
        """
        workers = self._workers[: setting.workers - 1]
        _say(workers, setting)
        failures = [self.answer(worker) for worker in workers]
        if any(failures):
            _say([each for each, failed in zip(workers, failures, strict=True) if not failed], STOP)
            raise next(filter(None, failures))
        batches: list[MeasuredBatch] = []
        _say(workers, GO)
        try:
            yield batches
        finally:
            _say(workers, STOP)
            told = [self.answer(worker) for worker in workers]
        for each in told:
            if isinstance(each, SettingFails):
                raise each
            batches += each

    def answer(self, worker: _Worker) -> Any:
        """What a worker answers.

        Raises:
            ArchiveError: it has ended, or does not answer.
        """
        try:
            if worker.pipe.poll(PATIENCE_S):
                return worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            pass
        self._log.seek(0)
        told = self._log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        raise ArchiveError(
            "\n".join(["a second worker could not be run (--max-workers 1: none):", *told])
        )


@contextmanager
def other_workers(job: Job, count: int, devices: int = 0) -> Iterator[OtherWorkers]:
    """Other workers, as long as the block lasts.

    Args:
        job: what they load.
        count: how many.
        devices: GPUs, which they share out as TorchServe's workers do; this process has the first.

    Raises:
        ArchiveError: one of them cannot load the handler.
    """
    workers: list[_Worker] = []
    with tempfile.TemporaryFile() as log:
        try:
            for number in range(1, count + 1):
                device = number % devices if devices > 1 else None
                workers.append(_start(device, log))
            others = OtherWorkers(workers, log)
            _say(workers, job)
            for worker in workers:
                others.answer(worker)
            yield others
        finally:
            for process, pipe in workers:
                process.kill()
                process.wait()
                pipe.close()


def _say(workers: Sequence[_Worker], message: object) -> None:
    for worker in workers:
        with suppress(BrokenPipeError):  # it has ended, which its missing answer will tell
            worker.pipe.send(message)


def _start(device: int | None, log: IO[bytes]) -> _Worker:
    environment = dict(os.environ)
    if device is not None:
        shown = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        environment["CUDA_VISIBLE_DEVICES"] = shown[device] if len(shown) > device else str(device)
    ours, its = Pipe()
    with its:
        process = subprocess.Popen(  # noqa: S603  (this very Python)
            [sys.executable, "-m", PROCESS, str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[its.fileno()],
        )
    return _Worker(process, ours)
