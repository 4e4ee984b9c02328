"""What to tune for: the most throughput, within limits of latency and memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from micro_batch_handler.tools.tuning.load import Figures

__all__ = ["MIB", "Goal", "frontier", "goals"]

ALIKE = 0.02
"""Rates that differ by less are alike: then the lower latency counts."""

MIB = 2**20


@dataclass(frozen=True)
class Goal:
    """The most throughput, within limits."""

    title: str
    p99_s: float | None = None
    memory_bytes: int | None = None

    def admits(self, figures: Figures) -> bool:
        """Whether the figures keep the limits."""
        in_time = self.p99_s is None or figures.p99_s <= self.p99_s
        return in_time and (self.memory_bytes is None or figures.memory_bytes <= self.memory_bytes)

    def ranked(self, figures: Iterable[Figures]) -> list[Figures]:
        """The figures that keep the limits, the fastest first."""
        return sorted(filter(self.admits, figures), key=lambda each: -each.rate)

    def best(self, figures: Iterable[Figures]) -> Figures | None:
        """Of about the fastest, the one with the lowest latency; None if none keeps the limits."""
        ranked = self.ranked(figures)
        alike = [each for each in ranked if each.rate >= (1 - ALIKE) * ranked[0].rate]
        return min(alike, key=lambda each: each.p99_s, default=None)


def goals(p99_ms: float | None, memory_mib: float | None) -> list[Goal]:
    """The most throughput, then within each limit, then within both; the last is the strictest."""
    found = [Goal("the most throughput")]
    p99_s = None if p99_ms is None else p99_ms / 1000
    memory_bytes = None if memory_mib is None else int(memory_mib * MIB)
    if p99_ms is not None:
        found.append(Goal(f"p99 at most {p99_ms:g} ms", p99_s))
    if memory_mib is not None:
        found.append(Goal(f"at most {memory_mib:g} MiB", None, memory_bytes))
    if p99_ms is not None and memory_mib is not None:
        both = f"p99 at most {p99_ms:g} ms with at most {memory_mib:g} MiB"
        found.append(Goal(both, p99_s, memory_bytes))
    return found


def frontier(figures: Sequence[Figures]) -> list[Figures]:
    """The figures that no others beat in both throughput and latency, the lowest latency first."""
    front: list[Figures] = []
    for each in sorted(figures, key=lambda each: (each.p99_s, -each.rate)):
        if not front or each.rate > front[-1].rate:
            front.append(each)
    return front
