"""A handler on the workbench, its batches timed: the tuner's own way to run them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from micro_batch_handler.config import AUTO, STAGES
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.planning.cores import lanes_for, usable_cores
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.batch import Batch, Call, SettingFails, Visit
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.copies import Copies
from micro_batch_handler.tools.tuning.memory import PeakMemory
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.workbench.workbench import Ran, Workbench

__all__ = ["HandlerBench"]

LEARNING_BATCHES = 60
"""After so many batches `auto` has mostly found its sizes."""

LEARNING_SHARE = 0.1
"""Of all time, what that may take."""

LATEST = 9
"""Batches whose sizes are looked at then."""


class HandlerBench:
    """Runs batches of the handler on a workbench.

    Args:
        workbench: has the handler, loaded.
        samples: files with the body of one request each; batches take them in turn.
        copies: other workers, for settings with several; None for one.
    """

    def __init__(
        self, workbench: Workbench, samples: Sequence[Path], copies: Copies | None = None
    ) -> None:
        self._workbench = workbench
        self._copies = copies
        self._samples = list(samples)
        self._next = 0
        self._memory = PeakMemory()
        self._in_force: Setting | None = None

    def visit(self, setting: Setting, times: int = 1) -> Visit:
        """Run full batches: so many, or more until each sample was among them.

        In another setting than the last one, a batch before these does not count. Other workers
        run theirs meanwhile, which count, too.

        Raises:
            SettingFails: some request of them has failed.
        """
        rows = setting.batch_size
        if setting != self._in_force:
            self._in_force = None
            self._workbench.configure(batch_size=rows, micro_batching=setting.section)
            self._memory.trim()
            self._run(rows)
            self._in_force = setting
        times = max(times, -(-len(self._samples) // rows))
        if self._copies is None:
            return Visit([self._run(rows)[0] for _ in range(times)])
        with self._copies.beside(setting) as others:
            own = [self._run(rows)[0] for _ in range(times)]
        return Visit([*own, *others])

    def given(self, budget: Budget, batch_size: int | None = None, workers: int = 1) -> Setting:
        """The setting that model-config.yaml asks for; where it leaves sizes open, what is found.

        Args:
            budget: of time, of which learning the sizes may take a tenth.
            batch_size: in place of the file's.
            workers: that TorchServe starts.

        Raises:
            SettingFails: some request has failed in it.
        """
        self._in_force = None
        self._workbench.configure(batch_size=batch_size)
        config, rows = self._workbench.config, self._workbench.batch_size
        lanes = lanes_for(config.parallelism, usable_cores())
        sizes = [config.micro_batch_size[stage] for stage in STAGES]
        fixed = [int(size) for size in sizes if size != AUTO]
        plan = Plan(*fixed) if len(fixed) == len(STAGES) else self._learned(rows, budget)
        threads = config.intra_op_threads
        if min(plan) < rows:
            return Setting(rows, plan, lanes, threads, workers)
        return Setting.whole(rows, plan, threads, workers)

    def _learned(self, rows: int, budget: Budget) -> Plan:
        """What `auto` has come to."""
        found: list[Plan] = []
        while not found or (len(found) < LEARNING_BATCHES and budget.lasts(LEARNING_SHARE)):
            budget.doing("learning the sizes of auto")
            found.append(self._run(rows)[1])
        return Counter(found[-LATEST:]).most_common(1)[0][0]

    def _run(self, rows: int) -> tuple[Batch, Plan]:
        """A batch, and the sizes that it was cut into."""
        samples = [
            self._samples[at % len(self._samples)] for at in range(self._next, self._next + rows)
        ]
        self._next += rows
        self._memory.begin()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        ran = self._workbench.run(samples)
        cpu_s, around_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
        if ran.failures or not ran.records:
            raise _failure(ran)
        (record,) = ran.records
        seconds = record.ended_s - record.began_s
        calls = [
            Call(call.stage, len(call.indices), call.ended_s - call.began_s)
            for call in record.outcomes.calls
        ]
        # Around the pipeline this thread alone makes requests of files and reads the answers.
        cpu_s = max(0.0, cpu_s - max(0.0, around_s - seconds))
        return Batch(seconds, calls, cpu_s, self._memory.peak_bytes()), record.plan


def _failure(ran: Ran) -> SettingFails:
    failed = ran.records[0].outcomes.failures.values() if ran.records else ()
    regroups = not any(isinstance(each.error, PayloadError) for each in failed)
    told = next(iter(ran.failures.values()), "no sample may be a describe or explain request")
    return SettingFails(told, regroups=regroups)
