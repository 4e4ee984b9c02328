"""What was measured of one server on one workload, as a result file has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Measured", "fastest_first"]


@dataclass(frozen=True)
class Measured:
    """The figures of `benchmarks.peers.rounds.Entry`, or what JSON makes of them."""

    figures: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The server's name in tables."""
        name: str = self.figures["server"]
        return name

    @property
    def settings(self) -> str:
        """What the search has chosen, in a few words."""
        words: str = self.figures["settings in words"]
        return words

    @property
    def ours(self) -> bool:
        """Whether it is this package, with one worker."""
        return bool(self.figures["key"] == "ours")

    def of(self, clients: int, figure: str) -> float:
        """The median of a figure of the samples."""
        return median(sample[figure] for sample in self._samples(clients))

    def cpu_s_per_1000(self, clients: int) -> float:
        """Processor seconds of all its processes for a thousand answers; median."""
        return median(
            1000 * sample["cpu_s"] / max(1, sample["requests"]) for sample in self._samples(clients)
        )

    @property
    def memory_bytes(self) -> int:
        """The most at once, in all samples."""
        return max(sample["memory_bytes"] for sample in self._all())

    @property
    def failed(self) -> int:
        """Requests refused or lost, in all samples."""
        return sum(sample["refused"] + sample["lost"] for sample in self._all())

    @property
    def harmed(self) -> str:
        """The good requests that failed beside bad ones; empty if that was not measured."""
        faults = self.figures["faults"]
        if faults is None:
            return ""
        share = faults["good_failed"] / faults["good"] if faults["good"] else 0.0
        return f"{share:.1%} of {faults['good']:,}"

    def _samples(self, clients: int) -> Sequence[Mapping[str, Any]]:
        samples: Sequence[Mapping[str, Any]] = self.figures["samples"][str(clients)]
        return samples

    def _all(self) -> list[Mapping[str, Any]]:
        return [sample for each in self.figures["samples"].values() for sample in each]


def fastest_first(servers: Sequence[Mapping[str, Any]], clients: Sequence[int]) -> list[Measured]:
    """The servers of a workload, by their most requests per second with any of these clients."""
    measured = [Measured(figures) for figures in servers]
    return sorted(measured, key=lambda each: -max(each.of(count, "rate") for count in clients))
