"""Other workers: the same handler in processes of their own, which run batches beside this one.

Each is this file, run with the number of a pipe as its argument. What such a process does:

gets a job through the pipe               loads it, and answers None
gets a setting                            runs a batch in it, and answers None, or its failure
gets GO, at the same time as the others   runs batches
gets STOP                                 answers with these batches, or with their failure
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
from micro_batch_handler.tools.tuning.trials import BatchRunner, MeasuredBatch, SettingFails
from micro_batch_handler.tools.workbench.model_folder import ModelFiles

__all__ = ["Job", "OtherWorkers", "other_workers"]

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


@dataclass(frozen=True)
class OtherWorkers:
    """So many other workers, loaded, and where they log."""

    workers: Sequence[_Worker]
    log: IO[bytes]

    @contextmanager
    def beside(self, setting: Setting) -> Iterator[list[MeasuredBatch]]:
        """Run batches in all workers of a setting but this one, as long as the block lasts.

        Gives a list, which has the others' batches when the block has ended.

        Raises:
            SettingFails: a request has failed in one of them.
            ArchiveError: one of them has ended.
        """
        workers = self.workers[: setting.workers - 1]
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
        self.log.seek(0)
        told = self.log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
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
            [sys.executable, "-m", __spec__.name, str(its.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[its.fileno()],
        )
    return _Worker(process, ours)


def _work(pipe: Connection) -> None:
    """What the process does: load the handler, then try settings until the pipe is closed."""
    # Here, since what is imported may take seconds, and may print.
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.workbench import Workbench

    job = pipe.recv()
    with Workbench(job.source, job.files) as workbench:
        runner = HandlerRunner(workbench, job.samples)
        pipe.send(None)
        while True:
            setting = pipe.recv()
            try:
                runner.run(setting)
            except SettingFails as failure:
                pipe.send(failure)
                continue
            pipe.send(None)
            if pipe.recv() == GO:
                pipe.send(_until_told(pipe, runner, setting))


def _until_told(
    pipe: Connection, runner: BatchRunner, setting: Setting
) -> list[MeasuredBatch] | SettingFails:
    """The batches of a setting until STOP comes, or why one failed."""
    found: list[MeasuredBatch] | SettingFails
    try:
        batches = [*runner.run(setting).batches]
        while not pipe.poll():
            batches += runner.run(setting).batches
        # What ended after the others had stopped was less disturbed.
        found = batches[:-1] or batches
    except SettingFails as failure:
        found = failure
    pipe.recv()
    return found


if __name__ == "__main__":
    _work(Connection(int(sys.argv[1])))
