"""A setting: what the tuner may choose, and what model-config.yaml says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from micro_batch_handler.config import SECTION, STAGES, PerStage
from micro_batch_handler.planning.plans import Plan, plan_of
from micro_batch_handler.planning.schedule import Sizes

__all__ = ["ONE_LANE", "Setting"]

ONE_LANE = PerStage(1, 1, 1)


@dataclass(frozen=True)
class Setting:
    """How batches run in one worker."""

    batch_size: int
    """Requests in a full batch."""

    sizes: Sizes
    """The most rows of a micro-batch, for each stage."""

    lanes: PerStage[int] = ONE_LANE

    @classmethod
    def whole(cls, batch_size: int, sizes: Sizes = ()) -> Setting:
        """Batches that are not cut: they run in one thread, so that lanes mean nothing."""
        return cls(batch_size, sizes or (batch_size,) * len(STAGES))

    @property
    def splits(self) -> bool:
        """Whether a full batch is more than one micro-batch in some stage."""
        return min(self.sizes) < self.batch_size

    @property
    def plan(self) -> Plan:
        """The sizes, as the pipeline takes them."""
        return plan_of(self.sizes)

    @property
    def section(self) -> dict[str, Any]:
        """What the `micro_batching:` section says of it."""
        return {
            "micro_batch_size": dict(zip(STAGES, self.sizes, strict=True)),
            "parallelism": {stage: self.lanes[stage] for stage in STAGES},
        }

    def keys(self, max_batch_delay_ms: int, workers: int) -> Mapping[str, Any]:
        """All that model-config.yaml says of it."""
        return {
            "minWorkers": workers,
            "maxWorkers": workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": max_batch_delay_ms,
            SECTION: self.section,
        }

    def __str__(self) -> str:
        if not self.splits:
            return f"{self.batch_size} unsplit"
        sizes = "/".join(str(min(size, self.batch_size)) for size in self.sizes)
        return f"{self.batch_size} in {sizes}, lanes {'/'.join(map(str, self.lane_counts))}"

    @property
    def lane_counts(self) -> tuple[int, ...]:
        """The lanes of each stage, in their order."""
        return tuple(self.lanes[stage] for stage in STAGES)
