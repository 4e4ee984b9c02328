"""Which settings serve a contender best: every candidate for a moment, the best ones again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.throughput.workload import Config

__all__ = ["Found", "best", "spread"]

FINALISTS = 3
"""So many of the best are probed again, for longer, since short probes are inexact."""

LONGER = 2


@dataclass(frozen=True)
class Found:
    """The best candidate, and the record of the search."""

    candidate: Config
    record: Sequence[dict[str, Any]] = ()
    """Each candidate with its rate, and its rate in the final if it got there."""


def best(
    probe: Callable[[Config, float], float], candidates: Sequence[Config], seconds: float
) -> Found:
    """The candidate with the highest rate in the final; a single one is not probed.

    Args:
        probe: (candidate, seconds) -> requests per second.
        candidates: at least one.
        seconds: of a first probe.
    """
    if len(candidates) == 1:
        return Found(candidates[0])
    rates = [probe(candidate, seconds) for candidate in candidates]
    ranked = sorted(range(len(candidates)), key=rates.__getitem__, reverse=True)
    finals = {
        index: probe(candidates[index], LONGER * seconds) for index in sorted(ranked[:FINALISTS])
    }
    winner = max(finals, key=finals.__getitem__)
    record: list[dict[str, Any]] = [
        {"candidate": candidate, "rate": round(rate, 1)}
        for candidate, rate in zip(candidates, rates, strict=True)
    ]
    for index, rate in finals.items():
        record[index]["final_rate"] = round(rate, 1)
    return Found(candidates[winner], record)


def spread(candidates: Sequence[Config], most: int | None) -> Sequence[Config]:
    """At most so many of the candidates, evenly spread; all for None."""
    if most is None or len(candidates) <= most:
        return candidates
    return [candidates[index * len(candidates) // most] for index in range(most)]
