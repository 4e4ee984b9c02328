"""What a batch would take in any setting, from what was measured, corrected by what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.choices import Choices
from micro_batch_handler.planning.curves import Curve, Line, fit
from micro_batch_handler.planning.experience import Model
from micro_batch_handler.planning.planner import HAND_OVER_S
from micro_batch_handler.planning.search import best
from micro_batch_handler.tools.tuning.measured import Measured
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["BatchModel"]


@dataclass(frozen=True)
class BatchModel:
    """Seconds and memory of a full batch, in one worker.

    A batch in lanes takes what its calls would (the schedule that the pipeline plans by, with what
    neighbours in the same stage cost), and not less than the processor time of its calls on all
    cores. What else stages cost one another is not modelled: the corrections learn it.
    """

    inline: Sequence[Curve]
    lanes: Sequence[Curve]
    contention: Mapping[tuple[int, int], float]
    cpu: float
    cores: int
    choices: Choices
    memory: Line | None
    """Bytes that the process holds, for the rows of an unsplit batch."""

    corrections: Mapping[tuple[bool, PerStage[int] | None], float] = field(default_factory=dict)
    """By what factor batches really take longer: by whether they are split, and their lanes."""

    hand_over_s: float = HAND_OVER_S

    @classmethod
    def of(cls, measured: Measured, choices: Choices, cores: int) -> BatchModel:
        """The model that the measures give.

        Args:
            measured: of each stage alone.
            choices: the sizes that there are.
            cores: that the process may use.
        """
        inline, lanes = measured.curves()
        memory = fit(measured.memory)
        return cls(inline, lanes, measured.contention, measured.cpu, cores, choices, memory)

    def batch_s(self, setting: Setting) -> float:
        """Seconds that a full batch takes."""
        return self._plain_s(setting) * self._correction(setting)

    def memory_bytes(self, setting: Setting) -> float:
        """Bytes that the process holds at most; 0 if that could not be measured.

        As if it were not split. A split batch has fewer rows between the stages at once.
        """
        return self.memory.at(setting.batch_size) if self.memory else 0.0

    def proposals(self, batch_size: int, lanes: PerStage[int]) -> list[Setting]:
        """What may be best for such batches and lanes: unsplit, the fastest, and coarser ones.

        Coarser sizes make fewer calls. They finish first where the cores are what is short, which
        the schedule does not know.
        """
        forecast = self._model(lanes).forecast(batch_size)
        found = {self.choices.whole(batch_size): None}
        least = 1
        while least < batch_size:
            found[best(forecast, self.choices, (least,) * len(STAGES))] = None
            least *= 2
        return [
            Setting(batch_size, sizes, lanes)
            if min(sizes) < batch_size
            else Setting.whole(batch_size, sizes)
            for sizes in found
        ]

    def corrected(self, taken_s: Mapping[Setting, float]) -> BatchModel:
        """The same model, corrected by what batches in some settings took."""
        ratios: dict[tuple[bool, PerStage[int] | None], list[float]] = {}
        for setting, seconds in taken_s.items():
            off = seconds / self._plain_s(setting)
            for key in ((setting.splits, setting.lanes), (setting.splits, None)):
                ratios.setdefault(key, []).append(off)
        return replace(self, corrections={key: median(offs) for key, offs in ratios.items()})

    def faster(self, at: int, factor: float) -> BatchModel:
        """The same with one stage so many times as fast."""
        inline, lanes = list(self.inline), list(self.lanes)
        inline[at], lanes[at] = _scaled(inline[at], 1 / factor), _scaled(lanes[at], 1 / factor)
        return replace(self, inline=inline, lanes=lanes)

    def _plain_s(self, setting: Setting) -> float:
        model = self._model(setting.lanes)
        calls_s = model.calls_s(setting.batch_size, setting.sizes)
        if not setting.splits:
            return calls_s
        forecast = self._model(setting.lanes, alone=True).forecast(setting.batch_size)
        work_s = sum(forecast.work_s(at, size) for at, size in enumerate(setting.sizes))
        return max(calls_s, work_s * self.cpu / self.cores)

    def _correction(self, setting: Setting) -> float:
        own = self.corrections.get((setting.splits, setting.lanes))
        return own if own is not None else self.corrections.get((setting.splits, None), 1.0)

    def _model(self, lanes: PerStage[int], *, alone: bool = False) -> Model:
        counts = [lanes[stage] for stage in STAGES]
        curves = self.lanes
        if not alone:
            curves = [
                _scaled(known, self.contention.get((at, counts[at]), 1.0))
                for at, known in enumerate(curves)
            ]
        padded = self.choices.padded
        return Model(self.inline, curves, {}, (), padded, counts, self.hand_over_s)


def _scaled(known: Curve, factor: float) -> Curve:
    line = replace(known.line, fixed_s=known.line.fixed_s * factor, row_s=known.line.row_s * factor)
    return Curve(line, {rows: seconds * factor for rows, seconds in known.measured.items()})
