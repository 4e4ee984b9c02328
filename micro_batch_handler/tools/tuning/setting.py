"""A setting: what the tuner may choose, and what model-config.yaml says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from micro_batch_handler.config import AUTO, SECTION, STAGES, PerStage, Threads
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan

__all__ = ["AUTO_THREADS", "ONE_LANE", "Setting"]

ONE_LANE = PerStage(1, 1, 1)
AUTO_THREADS: PerStage[Threads] = PerStage.of(AUTO)


@dataclass(frozen=True)
class Setting:
    """How batches run in each of some workers."""

    batch_size: int
    """Requests in a full batch."""
    plan: Plan
    lanes: PerStage[int] = ONE_LANE
    threads: PerStage[Threads] = AUTO_THREADS
    """Those that PyTorch may use inside a call."""
    workers: int = 1

    @classmethod
    def whole(
        cls,
        batch_size: int,
        plan: Plan | None = None,
        threads: PerStage[Threads] = AUTO_THREADS,
        workers: int = 1,
    ) -> Setting:
        """Whole batches. They run in one thread, so the number of lanes means nothing."""
        return cls(batch_size, plan or Plan.of(batch_size), threads=threads, workers=workers)

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
            "parallelism": dict(zip(STAGES, self.lane_counts, strict=True)),
            "intra_op_threads": AUTO if auto else {stage: self.threads[stage] for stage in STAGES},
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

    @property
    def lane_counts(self) -> tuple[int, ...]:
        """The lanes of each stage, in the order of the stages."""
        return tuple(self.lanes[stage] for stage in STAGES)

    def threads_in_calls(self, cores: int) -> tuple[int, ...]:
        """The threads that PyTorch has inside a call of each stage, with so many cores."""
        threads = IntraOpThreads.of(self.threads, self.lanes, cores, cores)
        if not self.splits:
            return (threads.whole,) * len(STAGES)
        return tuple(threads.lanes[stage] for stage in STAGES)

    def __str__(self) -> str:
        told = [f"{self.batch_size} whole"]
        if self.splits:
            sizes = "/".join(str(min(size, self.batch_size)) for size in self.plan)
            lanes = "/".join(map(str, self.lane_counts))
            told = [f"{self.batch_size} in {sizes}", f"lanes {lanes}"]
        if self.threads != AUTO_THREADS:
            told.append(f"threads {'/'.join(str(self.threads[stage]) for stage in STAGES)}")
        if self.workers > 1:
            told.append(f"{self.workers} workers")
        return ", ".join(told)
