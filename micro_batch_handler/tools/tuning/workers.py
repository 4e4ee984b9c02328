"""Other workers: the same handler in processes of their own, which run batches beside this one.

Each is this file, run with the number of a pipe as its argument. What such a process does:

gets a job through the pipe               loads it, and answers with the warnings
gets a setting and a number               runs so many batches, and answers with them
gets a setting, as others do, and STOP    answers with the batches that it ran in between

In place of batches it answers with the failure of one. The process with a model that workers share
ends with this one, which plays TorchServe's frontend.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, NamedTuple

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.worker import FRONTEND
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import BatchRunner, MeasuredBatch, SettingFails, Trial
from micro_batch_handler.tools.workbench.model_folder import ModelFiles

__all__ = ["Job", "OtherWorkers", "other_workers"]

STOP = "stop"

PATIENCE_S = 300.0
"""For a worker to load, or to run a batch."""

LOG_LINES = 10


@dataclass(frozen=True)
class Job:
    """What each worker loads; paths are absolute."""

    source: Path
    samples: Sequence[Path]
    files: ModelFiles | None = None
    in_place: bool = False
    """Whether all work in the source, a folder, as TorchServe's workers do."""
    device: int = 0
    """The number of the GPU, for workers that share a model."""


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection


@dataclass(frozen=True)
class OtherWorkers:
    """So many other workers, loaded, and where they log."""

    workers: Sequence[_Worker]
    log: IO[bytes]
    warnings: Sequence[str] = ()
    """What the package warned of when the first of them was loaded."""

    def run(self, setting: Setting, times: int) -> Trial:
        """Run so many batches in a worker, and meanwhile others in all other workers of a setting.

        Raises:
            SettingFails: a request has failed in one of them.
            ArchiveError: one of them has ended.
        """
        first, *others = self.workers[: setting.workers]
        self._tried([first, *others], setting, 1)
        with self._running(others, setting) as batches:
            own = self._tried([first], setting, times)
        return Trial([*own, *batches])

    @contextmanager
    def beside(self, setting: Setting) -> Iterator[list[MeasuredBatch]]:
        """Run batches in all workers of a setting but this process, as long as the block lasts.

        Gives a list, which has the others' batches when the block has ended.

        Raises:
            SettingFails: a request has failed in one of them.
            ArchiveError: one of them has ended.
        """
        others = self.workers[: setting.workers - 1]
        self._tried(others, setting, 1)
        with self._running(others, setting) as batches:
            yield batches

    def _tried(
        self, workers: Sequence[_Worker], setting: Setting, times: int
    ) -> list[MeasuredBatch]:
        _say(workers, (setting, times))
        return _all_of([self.answer(worker) for worker in workers])

    @contextmanager
    def _running(
        self, workers: Sequence[_Worker], setting: Setting
    ) -> Iterator[list[MeasuredBatch]]:
        batches: list[MeasuredBatch] = []
        _say(workers, setting)
        try:
            yield batches
        finally:
            _say(workers, STOP)
            told = [self.answer(worker) for worker in workers]
        batches += _all_of(told)

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
        what = "another worker could not be run (--max-workers 1: none):"
        raise ArchiveError("\n".join([what, *told]))


def _all_of(told: Sequence[Any]) -> list[MeasuredBatch]:
    """The batches of all answers.

    Raises:
        SettingFails: one of them is that.
    """
    for each in told:
        if isinstance(each, SettingFails):
            raise each
    return [batch for each in told for batch in each]


@contextmanager
def other_workers(
    job: Job,
    count: int,
    devices: int = 0,
    *,
    first: int = 1,
    shares: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[OtherWorkers]:
    """Other workers, as long as the block lasts.

    Args:
        job: what they load.
        count: how many.
        devices: GPUs, which they share out as TorchServe's workers do.
        first: the number of the first of them; this process has the number 0, if it is a worker.
        shares: whether those of a device share a model.
        environment: of this process, before it has loaded anything.

    Raises:
        ArchiveError: one of them cannot load the handler.
    """
    workers: list[_Worker] = []
    with tempfile.TemporaryFile() as log:
        try:
            for number in range(first, first + count):
                device = number % devices if devices > 1 else 0
                # The model's process sees all GPUs.
                shown = device if devices > 1 and not shares else None
                workers.append(_start(shown, log, environment))
                _say(workers[-1:], replace(job, device=device if shares else 0))
            told = [OtherWorkers(workers, log).answer(worker) for worker in workers]
            yield OtherWorkers(workers, log, told[0] if told else ())
        finally:
            for process, pipe in workers:
                process.kill()
                process.wait()
                pipe.close()


def _say(workers: Sequence[_Worker], message: object) -> None:
    for worker in workers:
        with suppress(BrokenPipeError):  # it has ended, which its missing answer will tell
            worker.pipe.send(message)


def _start(device: int | None, log: IO[bytes], given: Mapping[str, str]) -> _Worker:
    environment = {**given, FRONTEND: str(os.getpid())}
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
    with Workbench(job.source, job.files, in_place=job.in_place, device=job.device) as workbench:
        runner = HandlerRunner(workbench, job.samples)
        pipe.send(workbench.warnings)
        while True:
            asked = pipe.recv()
            if isinstance(asked, Setting):
                pipe.send(_until_told(pipe, runner, asked))
                continue
            setting, times = asked
            try:
                pipe.send(runner.run(setting, times).batches)
            except SettingFails as failure:
                pipe.send(failure)


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
