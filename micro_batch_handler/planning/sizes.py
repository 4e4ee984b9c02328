"""The sizes that may be chosen for the micro-batches of each stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig
from micro_batch_handler.planning.constants import MOST_MICRO_BATCHES
from micro_batch_handler.planning.plan import Plan

__all__ = ["ANY_SIZE", "INFERENCE", "SizeOptions", "at_most", "even_sizes", "padded"]

INFERENCE = STAGES.index("inference")

ANY_SIZE = Plan.of(1)
"""The least plan: no size is too small."""


@lru_cache(maxsize=4096)
def even_sizes(rows: int) -> tuple[int, ...]:
    """The sizes that cut a batch evenly into some number of parts, and powers of two; descending.

    >>> even_sizes(10)
    (10, 8, 5, 4, 3, 2, 1)
    """
    parts = range(1, min(rows, MOST_MICRO_BATCHES) + 1)
    even = {-(-rows // count) for count in parts}
    powers = {1 << bits for bits in range(rows.bit_length())}
    most = [size for size in even | powers if size * MOST_MICRO_BATCHES >= rows]
    return tuple(sorted(most, reverse=True))


def padded(rows: int, allowed_sizes: Sequence[int]) -> int:
    """The smallest of the sizes, which ascend, that so many rows fit into; `rows` if none does."""
    return next((size for size in allowed_sizes if size >= rows), rows)


def at_most(size: int, options: Sequence[int]) -> int:
    """The largest of the options, which descend, that is no larger; the smallest if none is."""
    return next((option for option in options if option <= size), options[-1])


@dataclass(frozen=True)
class SizeOptions:
    """The sizes that may be chosen.

    Args:
        config: has the sizes that the user gave, which are kept.
        together: whether the stages whose size the user left open must have the same size, because
            it is not known that their payloads can be cut and joined.
    """

    config: MicroBatchingConfig
    together: bool = False

    @cached_property
    def free(self) -> tuple[int, ...]:
        """The stages whose size may be chosen."""
        sizes = self.config.micro_batch_size
        left = tuple(at for at, stage in enumerate(STAGES) if sizes[stage] == AUTO)
        return () if self.together and len(left) < len(STAGES) else left

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """The stages whose size may be changed alone or together."""
        free = self.free
        if self.together:
            return [free] if free else []
        return [some for count in range(1, len(free) + 1) for some in combinations(free, count)]

    def padded(self, rows: int) -> int:
        """The size that a call of inference on so many rows has, once it is padded."""
        return padded(rows, self.config.allowed_sizes or ())

    def whole(self, rows: int) -> Plan:
        """The plan with the fewest cuts that the given and the allowed sizes leave."""
        if rows not in self._whole:
            self._whole[rows] = self._fewest_cuts(rows)
        return self._whole[rows]

    @cached_property
    def _whole(self) -> dict[int, Plan]:
        return {}  # asked for with each batch

    def _fewest_cuts(self, rows: int) -> Plan:
        given = [self.config.micro_batch_size[stage] for stage in STAGES]
        numbers = [int(size) for size in given if size != AUTO]
        largest = [options[0] for options in self._options(rows)]
        if self.together and numbers:
            # One of the given sizes for all stages, so that few payloads are cut between stages.
            same = int(given[INFERENCE]) if given[INFERENCE] != AUTO else numbers[0]
            largest = [
                min(same, size) if at == INFERENCE else same for at, size in enumerate(largest)
            ]
        elif self.together:
            # Inference may be padded to more rows than the batch has, which cuts nothing.
            same = min(largest)
            largest = [size if same >= rows else same for size in largest]
        pairs = zip(largest, given, strict=True)
        return Plan(*(size if wanted == AUTO else int(wanted) for size, wanted in pairs))

    def per_stage(self, rows: int, least: Plan = ANY_SIZE) -> list[tuple[int, ...]]:
        """The sizes to choose from for each stage, descending; only one where the user gave it.

        Args:
            rows: of the batch.
            least: the smallest size of each stage that may be chosen, unless the size cuts nothing.
        """
        whole = self.whole(rows)
        if self.together:
            least = Plan.of(max(least))
        options = self._options(rows)
        for at, limit in enumerate(least):
            largest, *others = options[at]
            options[at] = (largest, *(size for size in others if size >= limit))
        return [options[at] if at in self.free else (whole[at],) for at in range(len(STAGES))]

    def adapted(self, plan: Plan, rows: int) -> Plan:
        """The plan for so many rows: no larger micro-batches, all of about the same size.

        A batch that is not cut has no lanes to choose.
        """
        whole = self.whole(rows)
        if plan.fits(rows):
            return whole
        even = [-(-rows // -(-rows // size)) for size in plan]
        sizes = [
            whole[at] if plan[at] >= rows else at_most(even[at], options)
            for at, options in enumerate(self.per_stage(rows))
        ]
        if self.together and self.free:
            sizes = [sizes[INFERENCE]] * len(STAGES)
        return Plan(*sizes, lanes=plan.lanes)

    def _options(self, rows: int) -> list[tuple[int, ...]]:
        options = [even_sizes(max(rows, 1))] * len(STAGES)
        allowed = self.config.allowed_sizes
        if allowed is not None:
            fitting = [size for size in allowed if size <= self.padded(rows)]
            options[INFERENCE] = tuple(reversed(fitting))
        return options
