"""What another worker does: a process that loads the handler, and runs batches when it is told to.

python -m micro_batch_handler.tools.tuning.worker_process PIPE

gets a job through the pipe               loads it, and answers None
gets a setting                            runs a batch in it, and answers None, or its failure
gets GO, at the same time as the others   runs batches
gets STOP                                 answers with these batches, or with their failure
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import BatchRunner, MeasuredBatch, SettingFails
from micro_batch_handler.tools.tuning.workers import GO

__all__ = ["main"]


def main(pipe: Connection) -> None:
    """Load the handler, then try settings until the pipe is closed."""
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
    main(Connection(int(sys.argv[1])))
