"""The settings worth a trial, and what the model expects of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.tools.tuning.batch import Visit, spread
from micro_batch_handler.tools.tuning.goals import Figures
from micro_batch_handler.tools.tuning.load import Load, percentile
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Expectations", "candidates", "measured_figures"]


def candidates(
    model: BatchModel, batch_sizes: Sequence[int], most_lanes: PerStage[int]
) -> list[Setting]:
    """For each batch size and numbers of lanes, the settings that the model thinks well of."""
    lanes = [
        PerStage(*counts)
        for counts in product(*(range(1, most_lanes[stage] + 1) for stage in STAGES))
    ]
    found = {
        setting: None
        for rows in batch_sizes
        for each in lanes
        for setting in model.proposals(rows, each)
    }
    return list(found)


def measured_figures(setting: Setting, visits: Sequence[Visit], load: Load) -> Figures:
    """What these batches of a setting mean for clients; the rate is of the median visit."""
    batches = [batch for visit in visits for batch in visit.batches]
    taken_s = [visit.seconds for visit in visits]
    return _figures(
        setting,
        median(taken_s),
        load.latencies_s(setting.batch_size, [batch.seconds for batch in batches]),
        max(batch.peak_bytes for batch in batches),
        load,
        len(batches),
        spread(taken_s),
    )


@dataclass(frozen=True)
class Expectations:
    """What to expect of a setting, by the model as it was corrected."""

    model: BatchModel
    load: Load
    tail: float = 1.0
    """By what factor the p99 is longer than if all batches took the same."""

    def of(self, setting: Setting) -> Figures:
        """The figures of one setting."""
        batch_s = self.model.batch_s(setting)
        latencies_s = self.load.latencies_s(setting.batch_size, [batch_s])
        memory = self.model.memory_bytes(setting)
        figures = _figures(setting, batch_s, latencies_s, memory, self.load)
        return replace(figures, p99_s=figures.p99_s * self.tail)

    def after(self, visits: Mapping[Setting, Sequence[Visit]]) -> Expectations:
        """What to expect after these batches were run."""
        if not visits:
            return self
        taken = {each: measured_figures(each, ran, self.load) for each, ran in visits.items()}
        tails = []
        for setting, figures in taken.items():
            latencies_s = self.load.latencies_s(setting.batch_size, [figures.batch_s])
            tails.append(figures.p99_s / percentile(latencies_s, 0.99))
        model = self.model.corrected({each: figures.batch_s for each, figures in taken.items()})
        return Expectations(model, self.load, median(tails))


def _figures(
    setting: Setting,
    batch_s: float,
    latencies_s: Sequence[float],
    memory_bytes: float,
    load: Load,
    batches: int = 0,
    apart: float = 0.0,
) -> Figures:
    return Figures(
        setting,
        load.rate(setting.batch_size, batch_s),
        percentile(latencies_s, 0.5),
        percentile(latencies_s, 0.99),
        memory_bytes,
        batch_s,
        load.max_batch_delay_ms(setting.batch_size, batch_s),
        batches,
        apart,
    )
