"""The settings worth a trial, and what the model expects of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul
from statistics import median

from micro_batch_handler.config import AUTO, STAGES, PerStage, Threads
from micro_batch_handler.tools.tuning.batch import Visit, spread
from micro_batch_handler.tools.tuning.goals import Figures
from micro_batch_handler.tools.tuning.load import Load, percentile
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, Setting

__all__ = ["Expectations", "candidates", "counts_up_to", "measured_figures", "threads_to_try"]

CROWDED = 2
"""Of the cores, how many threads all workers may have at most; more would only wait."""


def counts_up_to(most: int) -> list[int]:
    """The powers of two below, and it; ascending.

    >>> counts_up_to(6)
    [1, 2, 4, 6]
    """
    return sorted({*(1 << bits for bits in range(most.bit_length())), most})


def threads_to_try(workers: int, cores: int) -> list[PerStage[Threads]]:
    """`auto`; and for inference one, and its share of the cores beside so many workers."""
    counts = sorted({1, max(1, cores // workers)})
    own: list[PerStage[Threads]] = [PerStage(AUTO, count, AUTO) for count in counts]
    return [AUTO_THREADS, *own]


def candidates(
    model: BatchModel,
    batch_sizes: Sequence[int],
    most_lanes: PerStage[int],
    workers: Sequence[int] = (1,),
) -> list[Setting]:
    """For each batch size, lanes, threads and workers, what the model thinks well of.

    The sizes are those that are best with the threads of `auto`, in one worker.
    """
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
    return [
        replace(setting, threads=threads, workers=count)
        for count in workers
        for setting in found
        for threads in _apart(setting, count, model.cores)
    ]


def _apart(setting: Setting, workers: int, cores: int) -> Iterator[PerStage[Threads]]:
    """The threads to try that are not the same in effect, nor too many."""
    seen = set()
    for threads in threads_to_try(workers, cores):
        in_calls = replace(setting, threads=threads).in_calls(cores)
        lanes = setting.lane_counts if setting.splits else (1,)
        busy = workers * sum(map(mul, lanes, in_calls))
        crowded = workers > 1 and busy > CROWDED * cores
        if in_calls not in seen and not crowded:
            seen.add(in_calls)
            yield threads


def measured_figures(setting: Setting, visits: Sequence[Visit], load: Load) -> Figures:
    """What these batches of a setting mean for clients; the rate is of the median visit."""
    batches = [batch for visit in visits for batch in visit.batches]
    taken_s = [visit.seconds for visit in visits]
    return _figures(
        setting,
        median(taken_s),
        [batch.seconds for batch in batches],
        setting.workers * max(batch.peak_bytes for batch in batches),
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
        memory = self.model.memory_bytes(setting)
        figures = _figures(setting, batch_s, [batch_s], memory, self.load)
        return replace(figures, p99_s=figures.p99_s * self.tail)

    def after(self, visits: Mapping[Setting, Sequence[Visit]]) -> Expectations:
        """What to expect after these batches were run."""
        if not visits:
            return self
        taken = {each: measured_figures(each, ran, self.load) for each, ran in visits.items()}
        tails = []
        for setting, figures in taken.items():
            latencies_s = self.load.latencies_s(
                setting.batch_size, [figures.batch_s], setting.workers
            )
            tails.append(figures.p99_s / percentile(latencies_s, 0.99))
        model = self.model.corrected({each: figures.batch_s for each, figures in taken.items()})
        return Expectations(model, self.load, median(tails))


def _figures(
    setting: Setting,
    batch_s: float,
    batches_s: Sequence[float],
    memory_bytes: float,
    load: Load,
    batches: int = 0,
    apart: float = 0.0,
) -> Figures:
    latencies_s = load.latencies_s(setting.batch_size, batches_s, setting.workers)
    return Figures(
        setting,
        load.rate(setting.batch_size, batch_s, setting.workers),
        percentile(latencies_s, 0.5),
        percentile(latencies_s, 0.99),
        memory_bytes,
        batch_s,
        load.max_batch_delay_ms(setting.batch_size, batch_s),
        batches,
        apart,
    )
