"""A plan: how a batch is cut for each stage, and how many lanes work for it."""

from __future__ import annotations

from typing import NamedTuple

from micro_batch_handler.config import Stage
from micro_batch_handler.planning.constants import MATERIAL

__all__ = ["Plan"]


class Sizes(NamedTuple):
    """The most rows of one micro-batch, for each stage in order."""

    preprocess: int
    inference: int
    postprocess: int


class Plan(Sizes):
    """How a batch is cut, and in how many lanes.

    It is the tuple of its sizes. With other lanes it is another plan.
    """

    lanes: tuple[int, ...] = ()
    """Of each stage, that work for the batch; all that there are if empty."""

    def __new__(  # noqa: D102, PYI034  (typing.Self needs Python 3.11)
        cls, preprocess: int, inference: int, postprocess: int, *, lanes: tuple[int, ...] = ()
    ) -> Plan:
        plan = super().__new__(cls, preprocess, inference, postprocess)
        plan.lanes = lanes
        return plan

    def __eq__(self, other: object) -> bool:
        lanes = other.lanes if isinstance(other, Plan) else ()
        return tuple.__eq__(self, other) and self.lanes == lanes

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((*self, *self.lanes))

    def __repr__(self) -> str:
        lanes = f", lanes={self.lanes}" if self.lanes else ""
        return f"Plan({', '.join(map(str, self))}{lanes})"

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
        return Plan(*(*self[:at], size, *self[at + 1 :]), lanes=self.lanes)

    def with_lanes(self, lanes: tuple[int, ...]) -> Plan:
        """The same sizes in so many lanes."""
        return Plan(*self, lanes=lanes)

    def fits(self, rows: int) -> bool:
        """Whether so many rows are one micro-batch in every stage: then they run inline."""
        return rows <= min(self)

    def regroups(self, rows: int) -> bool:
        """Whether payloads of so many rows are cut or joined between two stages."""
        return len({min(size, rows) for size in self}) > 1

    def is_like(self, other: Plan, rows: int) -> bool:
        """Whether two plans differ too little to be worth a line in the log."""
        if self.fits(rows) != other.fits(rows) or self.lanes != other.lanes:
            return False
        pairs = zip(self, other, strict=True)
        return all(max(pair) < MATERIAL * min(pair) for pair in pairs)
