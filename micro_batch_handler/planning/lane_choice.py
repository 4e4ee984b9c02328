"""Which numbers of lanes a batch may have, and how calls beside each other slow down."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import TypeAlias

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage

__all__ = ["LaneCounts", "beside", "lane_choices", "slower_with"]

TWICE = 2
"""Numbers of lanes beside each other differ by this factor at most."""

LaneCounts: TypeAlias = tuple[int, ...]
"""The lanes of each stage that work for a batch."""


def lane_choices(config: MicroBatchingConfig, lanes: PerStage[int]) -> list[LaneCounts]:
    """All that may be chosen, the most first: every power of two where `parallelism` is auto.

    Args:
        config: has the numbers that the user gave, which are kept.
        lanes: that there are of each stage.
    """
    return list(product(*(_counts(config, stage, lanes[stage]) for stage in STAGES)))


def _counts(config: MicroBatchingConfig, stage: Stage, most: int) -> list[int]:
    if config.parallelism[stage] != AUTO:
        return [most]
    return sorted({most, *(1 << bits for bits in range(most.bit_length()))}, reverse=True)


def beside(lanes: LaneCounts, choices: Iterable[LaneCounts]) -> list[LaneCounts]:
    """The choices that have about twice or half as many lanes in one stage, and else the same."""

    def is_beside(other: LaneCounts) -> bool:
        pairs = [(a, b) for a, b in zip(lanes, other, strict=True) if a != b]
        return len(pairs) == 1 and max(pairs[0]) <= TWICE * min(pairs[0])

    return [other for other in choices if lanes and is_beside(other)]


def slower_with(at_once: int, known_at_once: int, known: float) -> float:
    """How many times as long a call takes as alone, for a number of calls at once not tried yet.

    With fewer beside it, it is held up less, in proportion. With more it may not be held up any
    more than now; that is tried.

    Args:
        at_once: the calls of the stage.
        known_at_once: of it, for which it is known.
        known: how many times as long a call takes beside these as alone, at least 1.
    """
    if at_once >= known_at_once:
        return known
    return 1 + (known - 1) * (at_once - 1) / (known_at_once - 1)
