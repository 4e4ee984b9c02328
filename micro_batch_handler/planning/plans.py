"""A plan: the most rows of one micro-batch, for each stage."""

from __future__ import annotations

from dataclasses import dataclass

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.schedule import Sizes

__all__ = ["Plan", "plan_of", "sizes_of"]

MATERIAL = 1.5
"""Sizes that change by less are alike."""


@dataclass(frozen=True)
class Plan:
    """The most rows of one micro-batch, for each stage."""

    sizes: PerStage[int]

    def fits(self, rows: int) -> bool:
        """Whether so many rows are one micro-batch in every stage: then they run inline."""
        return all(rows <= self.sizes[stage] for stage in STAGES)

    def regroups(self, rows: int) -> bool:
        """Whether payloads of so many rows are cut or joined between two stages."""
        return len({min(size, rows) for size in sizes_of(self)}) > 1

    def is_like(self, other: Plan, rows: int) -> bool:
        """Whether two plans differ so little for a batch that nobody need be told."""
        if self.fits(rows) != other.fits(rows):
            return False
        pairs = zip(sizes_of(self), sizes_of(other), strict=True)
        return all(max(pair) < MATERIAL * min(pair) for pair in pairs)


def plan_of(sizes: Sizes) -> Plan:
    """The plan with these sizes, in the order of the stages."""
    return Plan(PerStage(*sizes))


def sizes_of(plan: Plan) -> Sizes:
    """The sizes of a plan, in the order of the stages."""
    return tuple(plan.sizes[stage] for stage in STAGES)
