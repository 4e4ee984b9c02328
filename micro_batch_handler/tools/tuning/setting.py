"""A setting, what model-config.yaml says of it, and the space of settings to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul
from typing import Any

from micro_batch_handler.config import AUTO, SECTION, STAGES, MicroBatchingConfig, PerStage, Threads
from micro_batch_handler.planning.cores import IntraOpThreads, share_of
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import SizeOptions

__all__ = ["AUTO_THREADS", "ONE_LANE", "Setting", "Space", "counts_up_to"]

ONE_LANE = PerStage(1, 1, 1)
AUTO_THREADS: PerStage[Threads] = PerStage.of(AUTO)

CROWDED = 2
"""The most threads for each core, in all workers together; more would only wait."""


@dataclass(frozen=True)
class Setting:
    """How batches run in each of some workers."""

    batch_size: int
    """Requests in a full batch."""
    plan: Plan
    lanes: PerStage[int] = ONE_LANE
    """A whole batch runs in one thread, whatever their number."""
    threads: PerStage[Threads] = AUTO_THREADS
    """Those that PyTorch may use inside a call."""
    workers: int = 1
    shares: bool | None = None
    """Whether the workers share one model (`share_model`); None for no, and not in the file."""

    @classmethod
    def whole(cls, batch_size: int, workers: int = 1) -> Setting:
        """Whole batches in the usual threads."""
        return cls(batch_size, Plan.of(batch_size), workers=workers)

    @property
    def splits(self) -> bool:
        """Whether a full batch is cut for some stage."""
        return not self.plan.fits(self.batch_size)

    @property
    def section(self) -> dict[str, Any]:
        """The keys of the `micro_batching:` section."""
        auto = self.threads == AUTO_THREADS
        return {
            "micro_batch_size": dict(zip(STAGES, self.plan, strict=True)),
            "parallelism": dict(zip(STAGES, self.lanes, strict=True)),
            "intra_op_threads": AUTO if auto else dict(zip(STAGES, self.threads, strict=True)),
            **({} if self.shares is None else {"share_model": self.shares}),
        }

    def keys(self, max_batch_delay_ms: int) -> Mapping[str, Any]:
        """The keys of model-config.yaml."""
        return {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": max_batch_delay_ms,
            SECTION: self.section,
        }

    def threads_in_calls(self, cores: int) -> tuple[int, ...]:
        """The threads that PyTorch has inside a call of each stage, with so many cores."""
        share = cores if self.shares else share_of(cores, self.workers)
        threads = IntraOpThreads.of(self.threads, self.lanes, share, share)
        if not self.splits:
            return (threads.whole,) * len(STAGES)
        return tuple(threads.lanes)

    def __str__(self) -> str:
        told = [f"{self.batch_size} whole"]
        if self.splits:
            sizes = "/".join(str(min(size, self.batch_size)) for size in self.plan)
            lanes = "/".join(map(str, self.lanes))
            told = [f"{self.batch_size} in {sizes}", f"lanes {lanes}"]
        if self.threads != AUTO_THREADS:
            told.append(f"threads {'/'.join(map(str, self.threads))}")
        if self.shares:
            told.append(f"{self.workers} around one model")
        elif self.workers > 1:
            told.append(f"{self.workers} workers")
        return ", ".join(told)


@dataclass(frozen=True)
class Space:
    """What may be chosen.

    Args:
        config: has what is not chosen: `allowed_sizes`.
        batch_sizes: ascending.
        most_lanes: of each stage.
        cores: that all workers may use.
        workers: ascending, with a model each.
        members: ascending, around one model.
    """

    config: MicroBatchingConfig
    batch_sizes: Sequence[int]
    most_lanes: PerStage[int]
    cores: int
    workers: Sequence[int] = (1,)
    members: Sequence[int] = ()

    @property
    def alone(self) -> bool | None:
        """`Setting.shares` of workers with a model each."""
        return False if self.config.share_model else None

    @property
    def given(self) -> bool | None:
        """`Setting.shares` of the setting in force."""
        return True if self.config.share_model else None

    @property
    def threads(self) -> list[PerStage[Threads]]:
        """The threads inside calls to try, over all numbers of workers.

        A model that is shared has the threads with which it was loaded.
        """
        if self.config.share_model:
            return []
        return [each for count in self.workers for each in self._threads_beside(count)]

    @property
    def lanes(self) -> list[PerStage[int]]:
        """Combinations of lanes; powers of two, and the most."""
        counts = map(counts_up_to, self.most_lanes)
        return [PerStage(*each) for each in product(*counts)]

    def size_options(self, *, together: bool = False) -> SizeOptions:
        """The sizes of micro-batches; the same for all stages if they must be."""
        return SizeOptions(replace(self.config, micro_batch_size=PerStage.of(AUTO)), together)

    def in_workers(self, settings: Iterable[Setting]) -> list[Setting]:
        """Each setting in every number of workers, with the threads to try in each."""
        found = list(settings)
        apart = [
            replace(setting, threads=threads, workers=count, shares=self.alone)
            for count in self.workers
            for setting in found
            for threads in self._threads_for(setting, count)
        ]
        own = self.config.intra_op_threads
        return apart + [
            replace(setting, threads=own, workers=count, shares=True)
            for count in self.members
            for setting in found
            if self._is_shared(setting, count)
        ]

    def _is_shared(self, setting: Setting, members: int) -> bool:
        """Whether so many members may have it: not with lanes of inference, nor too many others.

        The process with the model makes one call at a time, however many of their lanes wait.
        """
        if not self.config.share_model and setting.lanes.inference > 1:
            return False
        lanes = setting.lanes.preprocess + setting.lanes.postprocess if setting.splits else 1
        return members == 1 or members * lanes <= CROWDED * self.cores

    def _threads_for(self, setting: Setting, workers: int) -> Iterator[PerStage[Threads]]:
        """The threads to try, without those that come to the same or crowd the cores."""
        seen = set()
        for threads in self._threads_beside(workers):
            tried = replace(setting, threads=threads, workers=workers)
            in_calls = tried.threads_in_calls(self.cores)
            lanes = setting.lanes if setting.splits else (1,)
            busy = workers * sum(map(mul, lanes, in_calls))
            crowded = workers > 1 and busy > CROWDED * self.cores
            if in_calls not in seen and not crowded:
                seen.add(in_calls)
                yield threads

    def _threads_beside(self, workers: int) -> list[PerStage[Threads]]:
        """`auto`; one for inference; and for inference the share of the cores that a worker has."""
        counts = sorted({1, share_of(self.cores, workers)})
        own: list[PerStage[Threads]] = [PerStage(AUTO, count, AUTO) for count in counts]
        return [AUTO_THREADS, *own]


def counts_up_to(most: int) -> list[int]:
    """The powers of two up to a number, and the number; ascending.

    >>> counts_up_to(6)
    [1, 2, 4, 6]
    """
    return sorted({*(1 << bits for bits in range(most.bit_length())), most})
