"""What another worker does: a process that loads the handler, and runs batches when it is told to.

python -m micro_batch_handler.tools.tuning.copy_process JOB

loads                                  says that it has
for each setting that comes on stdin
    runs a batch in it                 says that it has, or why it failed
    waits for a line                   so that all begin together
    runs batches until a line comes    says what they took, all as lines of JSON
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from micro_batch_handler.config import PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.batch import Batch, Bench, SettingFails
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.workbench.model_folder import ModelFiles

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """What one copy does; its stdout has lines of JSON only, whatever the handler prints."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Here, since what is imported may print, too.
    from micro_batch_handler.tools.tuning.bench import HandlerBench
    from micro_batch_handler.tools.workbench.workbench import Workbench

    # Without a buffer, so that what has come can be seen.
    lines = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)

    def tell(answer: object) -> None:
        print(json.dumps(answer), file=out, flush=True)

    job = json.loads(argv[0])
    with Workbench(Path(job["source"]), ModelFiles(**job["files"])) as workbench:
        bench = HandlerBench(workbench, [Path(sample) for sample in job["samples"]])
        tell({})
        for line in lines:
            given = json.loads(line)
            lanes, threads = PerStage(*given["lanes"]), PerStage(*given["threads"])
            setting = Setting(given["batch_size"], Plan(*given["sizes"]), lanes, threads)
            try:
                bench.visit(setting)
            except SettingFails as failure:
                tell(_failed(failure))
                continue
            tell({})
            lines.readline()
            tell(_ran_until(lines, bench, setting))


def _ran_until(lines: IO[bytes], bench: Bench, setting: Setting) -> dict[str, Any]:
    """What batches took, until a line has come."""
    try:
        batches = [*bench.visit(setting).batches]
        while not select.select([lines], [], [], 0)[0]:
            batches += bench.visit(setting).batches
    except SettingFails as failure:
        answer = _failed(failure)
    else:
        # What ended after the others had stopped was less disturbed.
        answer = {"batches": [_told(each) for each in batches[:-1] or batches]}
    lines.readline()
    return answer


def _failed(failure: SettingFails) -> dict[str, Any]:
    return {"failed": str(failure), "regroups": failure.regroups}


def _told(batch: Batch) -> list[Any]:
    return [batch.seconds, [list(call) for call in batch.calls], batch.cpu_s, batch.peak_bytes]


if __name__ == "__main__":
    main(sys.argv[1:])
