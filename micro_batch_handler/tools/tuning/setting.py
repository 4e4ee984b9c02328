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

    sizes: Plan
    """The most rows of a micro-batch, for each stage."""

    lanes: PerStage[int] = ONE_LANE
    threads: PerStage[Threads] = AUTO_THREADS
    """That PyTorch may use inside a call."""

    workers: int = 1

    @classmethod
    def whole(
        cls,
        batch_size: int,
        sizes: Plan | None = None,
        threads: PerStage[Threads] = AUTO_THREADS,
        workers: int = 1,
    ) -> Setting:
        """Batches that are not cut: they run in one thread, so that lanes mean nothing."""
        sizes = sizes or Plan.of(batch_size)
        return cls(batch_size, sizes, threads=threads, workers=workers)

    @property
    def splits(self) -> bool:
        """Whether a full batch is more than one micro-batch in some stage."""
        return min(self.sizes) < self.batch_size

    @property
    def plan(self) -> Plan:
        """The sizes, as the pipeline takes them."""
        return self.sizes

    @property
    def section(self) -> dict[str, Any]:
        """What the `micro_batching:` section says of it."""
        threads = {stage: self.threads[stage] for stage in STAGES}
        return {
            "micro_batch_size": dict(zip(STAGES, self.sizes, strict=True)),
            "parallelism": {stage: self.lanes[stage] for stage in STAGES},
            "intra_op_threads": AUTO if self.threads == AUTO_THREADS else threads,
        }

    def in_calls(self, cores: int) -> tuple[int, ...]:
        """The threads that PyTorch has inside a call of each stage, with so many cores."""
        threads = IntraOpThreads.of(self.threads, self.lanes, cores, cores)
        if not self.splits:
            return (threads.whole,) * len(STAGES)
        return tuple(threads.lanes[stage] for stage in STAGES)

    def keys(self, max_batch_delay_ms: int) -> Mapping[str, Any]:
        """All that model-config.yaml says of it."""
        return {
            "minWorkers": self.workers,
            "maxWorkers": self.workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": max_batch_delay_ms,
            SECTION: self.section,
        }

    def __str__(self) -> str:
        told = [f"{self.batch_size} unsplit"]
        if self.splits:
            sizes = "/".join(str(min(size, self.batch_size)) for size in self.sizes)
            lanes = "/".join(map(str, self.lane_counts))
            told = [f"{self.batch_size} in {sizes}", f"lanes {lanes}"]
        if self.threads != AUTO_THREADS:
            told.append(f"threads {'/'.join(str(self.threads[stage]) for stage in STAGES)}")
        if self.workers > 1:
            told.append(f"{self.workers} workers")
        return ", ".join(told)

    @property
    def lane_counts(self) -> tuple[int, ...]:
        """The lanes of each stage, in their order."""
        return tuple(self.lanes[stage] for stage in STAGES)
