"""What became of the requests of one handler, as figures and as a row of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from harness.images import Kind
from harness.verdicts import NO_ANSWER, Outcome, Result

__all__ = ["Summary", "table"]

Tally: TypeAlias = "dict[str, int]"

HEAD = (
    "handler",
    "requests sent",
    "good requests answered right",
    "good requests failed",
    "bad requests with their own status",
    "worker restarts",
    "p50 / p99 of right answers (ms)",
    "right answers per second",
)


@dataclass
class Summary:
    """All rounds of one handler; `add` each."""

    handler: str
    seconds: float = 0.0
    restarts: int = 0
    results: list[Result] = field(default_factory=list, repr=False)

    def add(self, results: Sequence[Result], seconds: float, restarts: int) -> None:
        """Count one more round."""
        self.results += results
        self.seconds += seconds
        self.restarts += restarts

    def count(self, outcome: Outcome, *kinds: Kind) -> int:
        """How many requests of these kinds ended so."""
        return sum(each.outcome == outcome and each.kind in kinds for each in self.results)

    @property
    def good(self) -> int:
        """How many good requests were sent."""
        return sum(each.kind is Kind.GOOD for each in self.results)

    @property
    def flawless(self) -> bool:
        """Whether every good request has its right answer, and every bad one its own status."""
        return all(each.outcome == "right" for each in self.results)

    def latency_ms(self, share: float) -> float:
        """The time that this share of the right answers took at most."""
        times = sorted(
            each.latency_s
            for each in self.results
            if each.kind is Kind.GOOD and each.outcome == "right"
        )
        return 1000 * times[min(int(share * len(times)), len(times) - 1)] if times else 0.0

    @property
    def right_per_s(self) -> float:
        """How many good requests were answered right in a second."""
        return self.count("right", Kind.GOOD) / self.seconds if self.seconds else 0.0

    def figures(self) -> dict[str, object]:
        """For a JSON file."""
        statuses: dict[str, Tally] = {}
        for kind in Kind:
            found = Counter(each.status for each in self.results if each.kind is kind)
            statuses[kind.name.lower()] = {str(code): found[code] for code in sorted(found)}
        return {
            "handler": self.handler,
            "seconds": round(self.seconds, 1),
            "sent": len(self.results),
            "good": {
                "sent": self.good,
                "right": self.count("right", Kind.GOOD),
                "failed": self.count("failed", Kind.GOOD),
                "swapped": self.count("swapped", Kind.GOOD),
                "lost": sum(
                    each.kind is Kind.GOOD and each.status == NO_ANSWER for each in self.results
                ),
            },
            "bad": {
                kind.name.lower(): {
                    "sent": sum(each.kind is kind for each in self.results),
                    "own status": self.count("right", kind),
                }
                for kind in Kind
                if kind is not Kind.GOOD
            },
            "statuses": statuses,
            "worker restarts": self.restarts,
            "latency ms": {
                f"p{100 * share:g}": round(self.latency_ms(share), 1) for share in (0.5, 0.9, 0.99)
            },
            "right answers per second": round(self.right_per_s, 1),
            "not right": [
                f"{number} x {kind.name.lower()} {status}: {text[:200]}"
                for (kind, status, text), number in Counter(
                    (each.kind, each.status, each.text)
                    for each in self.results
                    if each.outcome != "right"
                ).most_common(5)
            ],
        }

    def cells(self) -> list[str]:
        """For a row of the table."""
        bad = [kind for kind in Kind if kind is not Kind.GOOD]
        right = self.count("right", Kind.GOOD)
        failed = self.good - right
        share = 100 * failed / self.good if self.good else 0.0
        return [
            self.handler,
            f"{len(self.results):,}",
            f"{right:,}",
            f"{failed:,} ({share:.1f} %)" if failed else "0",
            f"{self.count('right', *bad):,} of {len(self.results) - self.good:,}",
            f"{self.restarts}",
            f"{self.latency_ms(0.5):,.0f} / {self.latency_ms(0.99):,.0f}",
            f"{self.right_per_s:,.0f}",
        ]


def table(summaries: Sequence[Summary]) -> str:
    """All of them, in Markdown."""
    rows = [list(HEAD), ["---"] * len(HEAD), *(each.cells() for each in summaries)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
