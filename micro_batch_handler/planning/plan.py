"""A plan: the most rows of one micro-batch, for each stage."""

from __future__ import annotations

from typing import NamedTuple

from micro_batch_handler.config import Stage
from micro_batch_handler.planning.constants import MATERIAL

__all__ = ["Plan"]


class Plan(NamedTuple):
    """The most rows of one micro-batch, for each stage in order."""

    preprocess: int
    inference: int
    postprocess: int

    @classmethod
    def of(cls, size: int) -> Plan:
        """The same size for every stage."""
        return cls(size, size, size)

    def size(self, stage: Stage) -> int:
        """The most rows of a micro-batch of this stage."""
        size: int = getattr(self, stage)
        return size

    def with_size(self, at: int, size: int) -> Plan:
        """The same with another size for one stage, given by its place."""
        return Plan._make((*self[:at], size, *self[at + 1 :]))

    def fits(self, rows: int) -> bool:
        """Whether so many rows are one micro-batch in every stage: then they run inline."""
        return rows <= min(self)

    def regroups(self, rows: int) -> bool:
        """Whether payloads of so many rows are cut or joined between two stages."""
        return len({min(size, rows) for size in self}) > 1

    def is_like(self, other: Plan, rows: int) -> bool:
        """Whether two plans differ too little to be worth a line in the log."""
        if self.fits(rows) != other.fits(rows):
            return False
        pairs = zip(self, other, strict=True)
        return all(max(pair) < MATERIAL * min(pair) for pair in pairs)
