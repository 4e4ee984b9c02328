"""The settings that may be chosen: batch sizes, lanes, threads and workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Threads
from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, Setting

__all__ = ["Space", "counts_up_to"]

CROWDED = 2
"""The most threads for each core, in all workers together; more would only wait."""


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Args:
        config: has what is not chosen: `allowed_sizes`.
        batch_sizes: ascending.
        most_lanes: of each stage.
        cores: that all workers may use.
        workers: ascending.
    """

    config: MicroBatchingConfig
    batch_sizes: Sequence[int]
    most_lanes: PerStage[int]
    cores: int
    workers: Sequence[int] = (1,)

    @property
    def threads(self) -> list[PerStage[Threads]]:
        """The threads inside calls to try, over all numbers of workers."""
        return [each for count in self.workers for each in self._threads_beside(count)]

    @property
    def lanes(self) -> list[PerStage[int]]:
        """All combinations of lanes."""
        counts = [range(1, self.most_lanes[stage] + 1) for stage in STAGES]
        return [PerStage(*each) for each in product(*counts)]

    def size_options(self, *, together: bool = False) -> SizeOptions:
        """The sizes of micro-batches; the same for all stages if they must be."""
        return SizeOptions(replace(self.config, micro_batch_size=PerStage.of(AUTO)), together)

    def in_workers(self, settings: Iterable[Setting]) -> list[Setting]:
        """Each setting in every number of workers, with the threads to try in each."""
        found = list(settings)
        return [
            replace(setting, threads=threads, workers=count)
            for count in self.workers
            for setting in found
            for threads in self._threads_for(setting, count)
        ]

    def _threads_for(self, setting: Setting, workers: int) -> Iterator[PerStage[Threads]]:
        """The threads to try, without those that come to the same or crowd the cores."""
        seen = set()
        for threads in self._threads_beside(workers):
            in_calls = replace(setting, threads=threads).threads_in_calls(self.cores)
            lanes = setting.lane_counts if setting.splits else (1,)
            busy = workers * sum(map(mul, lanes, in_calls))
            crowded = workers > 1 and busy > CROWDED * self.cores
            if in_calls not in seen and not crowded:
                seen.add(in_calls)
                yield threads

    def _threads_beside(self, workers: int) -> list[PerStage[Threads]]:
        """`auto`; one for inference; and for inference the share of the cores that a worker has."""
        counts = sorted({1, max(1, self.cores // workers)})
        own: list[PerStage[Threads]] = [PerStage(AUTO, count, AUTO) for count in counts]
        return [AUTO_THREADS, *own]


def counts_up_to(most: int) -> list[int]:
    """The powers of two up to a number, and the number; ascending.

    >>> counts_up_to(6)
    [1, 2, 4, 6]
    """
    return sorted({*(1 << bits for bits in range(most.bit_length())), most})
