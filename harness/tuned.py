"""Batches for the tuner in simulated time, of stages whose costs are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from harness.simulated import Cost, Machine
from micro_batch_handler.config import STAGES
from micro_batch_handler.pipeline.call import INLINE, LANE, CallRecord
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import MeasuredBatch, SettingFails, Trial
from micro_batch_handler.tracing.recording import TracedBatch

MIB = 2**20


class SimulatedRunner:
    """Runs batches on a simulated machine; its clock advances by what they take.

    Args:
        machine: has the costs; its lanes are those of each setting.
        memory: bytes that the process holds, for the rows of a batch.
        fails: why a batch in some setting fails, if it does.
        parallel: of what a call of inference takes in one thread, the part that PyTorch's threads
            share; the machine's cost is that of one thread.
    """

    def __init__(
        self,
        machine: Machine,
        memory: Callable[[int], int] = lambda rows: (200 + rows) * MIB,
        fails: Callable[[Setting], SettingFails | None] = lambda _: None,
        parallel: float = 0.0,
    ) -> None:
        self.machine = machine
        self.memory = memory
        self.fails = fails
        self.parallel = parallel
        self.now_s = 0.0
        self.settings: list[Setting] = []

    def run(self, setting: Setting, times: int = 1) -> Trial:
        failure = self.fails(setting)
        if failure is not None:
            raise failure
        self.settings.append(setting)
        return Trial([self._batch(setting) for _ in range(times)])

    def batch_s(self, setting: Setting) -> float:
        """What a batch takes in each worker, if the machine has no noise."""
        return self._on(setting, self.machine.seed).run_s(setting.batch_size, setting.plan)

    def _on(self, setting: Setting, seed: int) -> Machine:
        """What each worker has of the machine: a share of the cores, and calls as long as these.

        A call that wants more cores than that, by its threads, takes so much longer.
        """
        cores = None if self.machine.cores is None else self.machine.cores / setting.workers
        costs = list(self.machine.costs)
        for at, (shorter, busy) in enumerate(self._threaded(setting)):
            # Among lanes the machine itself shares its cores out.
            want = 1.0 if setting.splits or cores is None else busy / cores
            costs[at] = partial(_times, shorter * max(1.0, want), costs[at])
        return replace(self.machine, costs=costs, lanes=setting.lanes, cores=cores, seed=seed)

    def _threaded(self, setting: Setting) -> Iterator[tuple[float, int]]:
        """By what factor threads change calls of each stage, and the cores that these keep busy.

        A thread that waits for others keeps its core busy.
        """
        for at, threads in enumerate(setting.threads_in_calls(int(self.machine.cores or 1))):
            share = self.parallel if at == 1 else 0.0
            yield 1 - share + share / threads, threads if share else 1

    def _batch(self, setting: Setting) -> MeasuredBatch:
        machine = self._on(setting, len(self.settings))
        seconds = machine.run_s(setting.batch_size, setting.plan)
        self.now_s += seconds
        calls, work_s = [], 0.0
        threaded = list(self._threaded(setting))
        for stage, rows, taken_s in machine.calls:
            thread = f"{LANE}{STAGES[stage]}-0" if setting.splits else INLINE
            times = (0.0, 0.0, taken_s)
            call = CallRecord(STAGES[stage], tuple(range(rows)), thread, *times, failed=False)
            calls.append(call)
            work_s += self.machine.costs[stage](rows) * math.prod(threaded[stage])
        traced = TracedBatch(setting.batch_size, setting.plan, 0.0, seconds, calls)
        return MeasuredBatch(traced, work_s, self.memory(setting.batch_size))


def _times(factor: float, cost: Cost, rows: int) -> float:
    return factor * cost(rows)
