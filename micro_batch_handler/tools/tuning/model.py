"""What a batch would take in any setting, from what was measured, corrected by what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.constants import HAND_OVER_S
from micro_batch_handler.planning.cost_curve import Curve, Line, fit
from micro_batch_handler.planning.cost_model import CostModel
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.search import best
from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.tools.tuning.measured import AS_AUTO, Measured, Threaded
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, Setting

__all__ = ["BatchModel"]


@dataclass(frozen=True)
class BatchModel:
    """Seconds and memory of a full batch, in each of some workers.

    A batch in lanes takes what its calls would (the schedule that the pipeline plans by, with what
    neighbours in the same stage cost), and not less than the processor time of its calls on the
    worker's share of the cores. What else stages cost one another is not modelled: the corrections
    learn it.
    """

    inline: Sequence[Curve]
    lanes: Sequence[Curve]
    contention: Mapping[tuple[int, int], float]
    cpu: float
    cores: int
    choices: SizeOptions
    memory: Line | None
    """Bytes that a worker holds, for the rows of an unsplit batch."""

    threads: Mapping[int, Threaded] = field(default_factory=dict)
    """What the threads inside calls change; `auto` unsplit has one for each core."""

    corrections: Mapping[object, float] = field(default_factory=dict)
    """By what factor batches of a kind really take longer; see `_kinds`."""

    hand_over_s: float = HAND_OVER_S

    plain_s: dict[Setting, float] = field(init=False, default_factory=dict, compare=False)
    """What is computed already, without corrections."""

    @classmethod
    def of(cls, measured: Measured, choices: SizeOptions, cores: int) -> BatchModel:
        """The model that the measures give.

        Args:
            measured: of each stage alone.
            choices: the sizes that there are.
            cores: that the process may use.
        """
        inline, lanes = measured.curves()
        memory = fit(measured.memory)
        return cls(
            *(inline, lanes, measured.contention, measured.cpu, cores, choices, memory),
            threads=measured.threads,
        )

    def batch_s(self, setting: Setting) -> float:
        """Seconds that a full batch takes."""
        return self._plain_s(setting) * self._correction(setting)

    def memory_bytes(self, setting: Setting) -> float:
        """Bytes that all workers hold at most; 0 if that could not be measured.

        As if it were not split. A split batch has fewer rows between the stages at once.
        """
        return setting.workers * self.memory.at(setting.batch_size) if self.memory else 0.0

    def proposals(self, batch_size: int, lanes: PerStage[int]) -> list[Setting]:
        """What may be best for such batches and lanes: unsplit, the fastest, and coarser ones.

        Coarser sizes make fewer calls. They finish first where the cores are what is short, which
        the schedule does not know.
        """
        forecast = self._model(Setting(batch_size, Plan.of(1), lanes)).forecast(batch_size)
        found = {self.choices.whole(batch_size): None}
        least = 1
        while least < batch_size:
            found[best(forecast, self.choices, Plan.of(least))] = None
            least *= 2
        return [
            Setting(batch_size, sizes, lanes)
            if min(sizes) < batch_size
            else Setting.whole(batch_size, sizes)
            for sizes in found
        ]

    def corrected(self, taken_s: Mapping[Setting, float]) -> BatchModel:
        """The same model, corrected by what batches in some settings took."""
        ratios: dict[object, list[float]] = {}
        for setting, seconds in taken_s.items():
            off = seconds / self._plain_s(setting)
            for kind in _kinds(setting):
                ratios.setdefault(kind, []).append(off)
        model = replace(self, corrections={key: median(offs) for key, offs in ratios.items()})
        model.plain_s.update(self.plain_s)
        return model

    def faster(self, at: int, factor: float) -> BatchModel:
        """The same with one stage so many times as fast."""
        inline, lanes = list(self.inline), list(self.lanes)
        inline[at], lanes[at] = _scaled(inline[at], 1 / factor), _scaled(lanes[at], 1 / factor)
        return replace(self, inline=inline, lanes=lanes)

    def _plain_s(self, setting: Setting) -> float:
        known_s = self.plain_s.get(setting)
        if known_s is None:
            known_s = self.plain_s[setting] = self._computed_s(setting)
        return known_s

    def _computed_s(self, setting: Setting) -> float:
        model = self._model(setting)
        calls_s = model.batch_s(setting.sizes, model.forecast(setting.batch_size))
        now, usual = (self._threaded(each, 1) for each in (setting, _with_auto(setting)))
        share = self.cores / setting.workers
        if not setting.splits:
            return calls_s * max(1.0, min(now.cpu, self.cores) / share)
        forecast = self._model(setting, alone=True).forecast(setting.batch_size)
        work_s = sum(forecast.work_s(at, size) for at, size in enumerate(setting.sizes))
        busy = min(self.cpu * now.cpu / usual.cpu, self.cores)
        return max(calls_s, work_s * busy / share)

    def _correction(self, setting: Setting) -> float:
        known = (self.corrections.get(kind) for kind in _kinds(setting))
        return next((factor for factor in known if factor is not None), 1.0)

    def _threaded(self, setting: Setting, at: int) -> Threaded:
        """What the threads inside the calls of a stage change."""
        count = setting.in_calls(self.cores)[at]
        return self.threads.get(count, AS_AUTO)

    def _model(self, setting: Setting, *, alone: bool = False) -> CostModel:
        counts = setting.lane_counts
        usual = _with_auto(setting)
        slower = [
            self._threaded(setting, at).slower[at] / self._threaded(usual, at).slower[at]
            for at in range(len(STAGES))
        ]
        inline = [_scaled(known, slower[at]) for at, known in enumerate(self.inline)]
        crowded = [1.0 if alone else self.contention.get(each, 1.0) for each in enumerate(counts)]
        lanes = [_scaled(known, slower[at] * crowded[at]) for at, known in enumerate(self.lanes)]
        return CostModel(inline, lanes, counts, self.choices.padded, hand_over_s=self.hand_over_s)


def _with_auto(setting: Setting) -> Setting:
    return replace(setting, threads=AUTO_THREADS)


def _kinds(setting: Setting) -> list[object]:
    """What batches of a setting are like, the most alike first."""
    splits, workers = setting.splits, setting.workers
    return [(splits, setting.lanes, setting.threads, workers), (splits, workers), splits]


def _scaled(known: Curve, factor: float) -> Curve:
    line = replace(known.line, fixed_s=known.line.fixed_s * factor, row_s=known.line.row_s * factor)
    return Curve(line, {rows: seconds * factor for rows, seconds in known.measured.items()})
