"""What a batch takes in any setting: the planner's forecast, with costs that fit the setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.constants import HAND_OVER_S
from micro_batch_handler.planning.forecast import Cost, Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.search import best
from micro_batch_handler.planning.sizes import INFERENCE, SizeOptions
from micro_batch_handler.tools.tuning.measurements import AS_AUTO, Measurements, ThreadEffect
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, ONE_LANE, Setting

__all__ = ["BatchModel", "Corrections"]


@dataclass(frozen=True)
class BatchModel:
    """Seconds and memory of a full batch, in each of some workers.

    A batch takes what the planner forecasts of its calls. What these cost depends on the setting:
    on the neighbours in the same stage and on the threads inside calls. No batch takes less than
    the processor time of its calls on the worker's share of the cores. What else stages cost one
    another is not modelled; corrections learn it.
    """

    measured: Measurements
    options: SizeOptions
    cores: int
    """That all workers may use."""
    _known_s: dict[Setting, float] = field(default_factory=dict, init=False, repr=False)

    def batch_s(self, setting: Setting) -> float:
        """Seconds that a full batch takes."""
        if setting not in self._known_s:
            self._known_s[setting] = self._batch_s(setting)
        return self._known_s[setting]

    def memory_bytes(self, setting: Setting) -> float:
        """Bytes that all workers hold at most; 0 if that could not be measured.

        As of whole batches. A batch that is cut has fewer rows between the stages at once. Workers
        that share a model, and those that do not, tell nothing of each other.
        """
        memory, host_bytes = self.measured.memory, self.measured.host_bytes
        if memory is None or bool(setting.shares) != (host_bytes is not None):
            return 0.0
        return setting.workers * memory.at(setting.batch_size) + (host_bytes or 0)

    def proposals(self, batch_size: int, lanes: PerStage[int]) -> list[Setting]:
        """What may be best for such batches and lanes: whole, the fastest plan, and coarser ones.

        Coarser plans make fewer calls. They finish first where there are too few cores, which the
        forecast does not know.
        """
        forecast = self._forecast(Setting(batch_size, Plan.of(1), lanes))
        plans = {self.options.whole(batch_size): None}
        least = 1
        while least < batch_size:
            plans[best(forecast, self.options, Plan.of(least))] = None
            least *= 2
        return [
            Setting(batch_size, plan, ONE_LANE if plan.fits(batch_size) else lanes)
            for plan in plans
        ]

    def _batch_s(self, setting: Setting) -> float:
        finish_s = self._forecast(setting).finish_s(setting.plan)
        alone = self._forecast(setting, alone=True)
        work_s = sum(alone.work_s(at, size) for at, size in enumerate(setting.plan))
        share = self.cores / setting.workers
        if setting.shares:  # the model works on one call at a time, whichever worker's
            model_s = alone.work_s(INFERENCE, setting.plan.inference)
            finish_s = max(finish_s, setting.workers * model_s)
        return max(finish_s, work_s * min(self._cores_used(setting), self.cores) / share)

    def _forecast(self, setting: Setting, *, alone: bool = False) -> Forecast:
        """The forecast for a setting; `alone`: as if no call had neighbours in its stage."""
        costs = [self._cost(setting, at, alone=alone) for at in range(len(STAGES))]
        hand_over_s = HAND_OVER_S if setting.splits else 0.0
        return Forecast(setting.batch_size, costs, tuple(setting.lanes), hand_over_s)

    def _cost(self, setting: Setting, at: int, *, alone: bool) -> Cost:
        """What a call of a stage costs in a setting."""
        curve = (self.measured.lanes if setting.splits else self.measured.whole)[at]
        now, usual = self._threads(setting, at)
        factor = now.slower[at] / usual.slower[at]
        if setting.splits and not alone:
            factor *= self.measured.contention.get((at, setting.lanes[STAGES[at]]), 1.0)
        if at == INFERENCE:
            return lambda rows: factor * curve(self.options.padded(rows))
        return lambda rows: factor * curve(rows)

    def _cores_used(self, setting: Setting) -> float:
        """Cores that the calls of one lane keep busy."""
        now, usual = self._threads(setting, INFERENCE)
        if setting.splits:
            return self.measured.cores_used * now.cores_used / usual.cores_used
        return now.cores_used

    def _threads(self, setting: Setting, at: int) -> tuple[ThreadEffect, ThreadEffect]:
        """The effect of the threads inside calls of a stage, and of those of the measured costs.

        The costs were measured with the threads that `auto` gives to one worker. A number of
        threads whose effect was not measured counts as that.
        """
        auto = replace(setting, threads=AUTO_THREADS, workers=1)
        now, usual = (each.threads_in_calls(self.cores)[at] for each in (setting, auto))
        threads = self.measured.threads
        found = threads.get(usual, AS_AUTO)
        return threads.get(now, found), found


class Corrections:
    """By what factor batches really take longer than the model says, learned from some settings.

    Args:
        model: the model to correct.
        taken_s: seconds of a batch in the settings that were run.
    """

    def __init__(self, model: BatchModel, taken_s: Mapping[Setting, float]) -> None:
        factors: defaultdict[object, list[float]] = defaultdict(list)
        for setting, seconds in taken_s.items():
            for kind in _kinds(setting):
                factors[kind].append(seconds / model.batch_s(setting))
        self._factors = {kind: median(found) for kind, found in factors.items()}

    def of(self, setting: Setting) -> float:
        """The factor of the settings most like this one; 1 if none are like it."""
        return next((self._factors[kind] for kind in _kinds(setting) if kind in self._factors), 1.0)


def _kinds(setting: Setting) -> list[object]:
    """The kinds of settings that a setting belongs to, the narrowest first."""
    splits, workers = setting.splits, (bool(setting.shares), setting.workers)
    return [(splits, setting.lanes, setting.threads, workers), (splits, workers), splits]
