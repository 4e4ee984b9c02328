"""How large the micro-batches of each stage are, for a batch of n."""

from __future__ import annotations

from dataclasses import dataclass

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage

__all__ = ["Plan", "fixed_plan"]

AUTO_MICRO_BATCHES = 4
"""Micro-batches that `auto` cuts a full batch into.

With m micro-batches, three equally long stages take (m + 2) / (3 m) of the serial time: half of
it for m = 4. More would gain little and make each call smaller, which costs on accelerators.
"""


@dataclass(frozen=True)
class Plan:
    """The most rows of one micro-batch, for each stage."""

    sizes: PerStage[int]

    def fits(self, rows: int) -> bool:
        """Whether so many rows are one micro-batch in every stage: then they run inline."""
        return all(rows <= self.sizes[stage] for stage in STAGES)


def fixed_plan(config: MicroBatchingConfig, batch_size: int) -> Plan:
    """The same plan for every batch; `auto` is a quarter of the batch size TorchServe allows.

    Args:
        config: the user's sizes, which are never changed.
        batch_size: the most requests of one batch (TorchServe's `batchSize`), at least 1.
    """
    auto = max(1, -(-batch_size // AUTO_MICRO_BATCHES))

    def rows(stage: Stage) -> int:
        size = config.micro_batch_size[stage]
        if size != AUTO:
            return int(size)
        if stage == "inference" and config.allowed_sizes:
            fitting = [size for size in config.allowed_sizes if size <= auto]
            return max(fitting, default=config.allowed_sizes[0])
        return auto

    return Plan(PerStage(*(rows(stage) for stage in STAGES)))
