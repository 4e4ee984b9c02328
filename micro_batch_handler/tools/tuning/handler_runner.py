"""Batches of a handler on the workbench: timed, and their processor time and memory measured."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import psutil

from micro_batch_handler.config import AUTO, STAGES
from micro_batch_handler.errors import PayloadError
from micro_batch_handler.planning.constants import SETTLED_BATCHES
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting
from micro_batch_handler.tools.tuning.trials import MeasuredBatch, SettingFails, TimeBudget, Trial
from micro_batch_handler.tools.tuning.workers import OtherWorkers
from micro_batch_handler.tools.workbench.ran import Ran
from micro_batch_handler.tools.workbench.workbench import Workbench
from micro_batch_handler.tracing.recording import TracedBatch

__all__ = ["HandlerRunner", "PeakMemory"]

LEARNING_SHARE = 0.1
"""The share of the time that `auto` may take to find its sizes."""

LATEST = 9
"""Batches at the end of it whose most frequent sizes are taken."""

RESET = "5"
"""Resets the peak: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html"""

KIB = 2**10


@dataclass
class HandlerRunner:
    """Runs batches of the handler on a workbench."""

    workbench: Workbench
    samples: Sequence[Path]
    """Files with the body of one request each; batches take them in turn."""
    others: OtherWorkers | None = None
    """The other workers, for settings with several; None for one worker."""
    rivals: OtherWorkers | None = None
    """All workers for settings that share the model, if this one does not, or the reverse."""

    def __post_init__(self) -> None:
        self._next_samples = cycle(self.samples)
        self._memory = PeakMemory()
        self._host: psutil.Process | None = None
        self._host_memory = PeakMemory()
        self._shares = self.workbench.config.share_model
        self._in_force: Setting | None = None

    def run(self, setting: Setting, times: int = 1) -> Trial:
        """Run full batches as a `BatchRunner`; those that other workers run meanwhile count too."""
        times = max(times, -(-len(self.samples) // setting.batch_size))
        if self.rivals is not None and bool(setting.shares) != self._shares:
            return self.rivals.run(setting, times)
        if setting != self._in_force:
            self._in_force = None
            rows = setting.batch_size
            self.workbench.configure(
                batch_size=rows, micro_batching=setting.section, workers=setting.workers
            )
            self._memory.trim()
            self._batch()
            self._find_host()
            self._in_force = setting
        if self.others is None:
            return Trial([self._batch() for _ in range(times)])
        with self.others.beside(setting) as batches:
            own = [self._batch() for _ in range(times)]
        return Trial([*own, *batches])

    def given(self, budget: TimeBudget, batch_size: int | None = None, workers: int = 1) -> Setting:
        """The setting that model-config.yaml asks for; for sizes of `auto`, what `auto` finds.

        Args:
            budget: of time, of which learning the sizes may take a tenth.
            batch_size: in place of the file's.
            workers: that TorchServe starts.

        Raises:
            SettingFails: a request has failed in it.
        """
        self._in_force = None
        self.workbench.configure(batch_size=batch_size)
        config, rows = self.workbench.config, self.workbench.batch_size
        fixed = [int(size) for size in config.micro_batch_size if size != AUTO]
        plan = Plan(*fixed) if len(fixed) == len(STAGES) else self._learned(budget)
        lanes = ONE_LANE if plan.fits(rows) else self.workbench.setup.lanes
        shares = True if config.share_model else None
        return Setting(rows, plan, lanes, config.intra_op_threads, workers, shares)

    def _learned(self, budget: TimeBudget) -> Plan:
        """The plan that `auto` settles on."""
        found: list[Plan] = []
        while not found or (len(found) < SETTLED_BATCHES and budget.lasts(LEARNING_SHARE)):
            budget.doing("learning the sizes of auto")
            found.append(self._batch().traced.plan)
        return Counter(found[-LATEST:]).most_common(1)[0][0]

    def _batch(self) -> MeasuredBatch:
        samples = list(islice(self._next_samples, self.workbench.batch_size))
        self._memory.begin()
        self._host_memory.begin()
        began_host_s = self._host_cpu_s()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        ran = self.workbench.run(samples)
        cpu_s, around_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
        if ran.failures or not ran.records:
            raise _failure(ran)
        batch = TracedBatch.of(*ran.records)
        # Around the pipeline this thread alone makes requests of files and reads the answers.
        cpu_s = max(0.0, cpu_s - max(0.0, around_s - batch.wall_s))
        host = (self._host_cpu_s() - began_host_s, self._host_memory.peak_bytes())
        return MeasuredBatch(batch, cpu_s, self._memory.peak_bytes(), *(host if self._host else ()))

    def _find_host(self) -> None:
        """Look which process has the model; another one, if the last has ended."""
        pid = self.workbench.host
        if pid is not None and (self._host is None or self._host.pid != pid):
            self._host = psutil.Process(pid)
            self._host_memory = PeakMemory(Path(f"/proc/{pid}"))

    def _host_cpu_s(self) -> float:
        """Processor time of the process with the model so far."""
        try:
            return sum(self._host.cpu_times()[:2]) if self._host is not None else 0.0
        except psutil.Error:
            return 0.0  # it has ended, and requests will tell


@dataclass
class PeakMemory:
    """The most resident memory that this process has held since `begin`. Only Linux tells."""

    process: Path = Path("/proc/self")
    """The folder of the process; a test passes its own."""
    _begins: bool = False

    def trim(self) -> None:
        """Give free memory back, so that larger batches of before do not count."""
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)

    def begin(self) -> None:
        """Forget the peak so far."""
        self._begins = False
        with suppress(OSError):
            (self.process / "clear_refs").write_text(RESET, encoding="ascii")
            self._begins = True

    def peak_bytes(self) -> int:
        """The peak since then; 0 if the system does not tell."""
        if not self._begins:
            return 0
        try:
            status = (self.process / "status").read_text(encoding="utf-8")
        except OSError:
            return 0
        found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
        return int(found[1]) * KIB if found else 0


def _failure(ran: Ran) -> SettingFails:
    failed = ran.records[0].outcomes.failures.values() if ran.records else ()
    regroups = not any(isinstance(each.error, PayloadError) for each in failed)
    told = next(iter(ran.failures.values()), "no sample may be a describe or explain request")
    return SettingFails(told, regroups=regroups)
