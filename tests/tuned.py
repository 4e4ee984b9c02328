"""A bench in simulated time, for the tuner: batches of stages whose costs are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from micro_batch_handler.config import STAGES
from micro_batch_handler.tools.tuning.batch import Batch, Call, SettingFails, Visit
from micro_batch_handler.tools.tuning.setting import Setting
from tests.simulated import Machine

MIB = 2**20


class SimulatedBench:
    """Runs batches on a simulated machine; its clock is what they took.

    Args:
        machine: has the costs; its lanes are those of each setting.
        memory: bytes that the process holds, for the rows of a batch.
        fails: why a batch in some setting fails, if it does.
    """

    def __init__(
        self,
        machine: Machine,
        memory: Callable[[int], int] = lambda rows: (200 + rows) * MIB,
        fails: Callable[[Setting], SettingFails | None] = lambda _: None,
    ) -> None:
        self.machine = machine
        self.memory = memory
        self.fails = fails
        self.now_s = 0.0
        self.visited: list[Setting] = []

    def visit(self, setting: Setting, times: int = 1) -> Visit:
        failure = self.fails(setting)
        if failure is not None:
            raise failure
        self.visited.append(setting)
        return Visit([self._batch(setting) for _ in range(times)])

    def batch_s(self, setting: Setting) -> float:
        """What a batch takes, if the machine has no noise."""
        return replace(self.machine, lanes=setting.lanes).run_s(setting.batch_size, setting.plan)

    def _batch(self, setting: Setting) -> Batch:
        machine = replace(self.machine, lanes=setting.lanes, seed=len(self.visited))
        seconds = machine.run_s(setting.batch_size, setting.plan)
        self.now_s += seconds
        calls = [Call(STAGES[stage], rows, taken_s) for stage, rows, taken_s in machine.calls]
        work_s = sum(self.machine.costs[stage](rows) for stage, rows, _ in machine.calls)
        return Batch(seconds, calls, work_s, self.memory(setting.batch_size))
