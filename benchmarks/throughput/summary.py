"""Samples as figures, ratios and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from benchmarks.throughput.search import Found
from benchmarks.throughput.workload import (
    LIMIT,
    Config,
    Contender,
    Measure,
    Target,
    Workload,
)
from harness.clients import Sample
from micro_batch_handler.config import AUTO, STAGES

__all__ = [
    "Busy",
    "Entry",
    "Ratio",
    "markdown_table",
    "ratio",
    "reached",
    "settings_of",
    "table",
    "targets_table",
]

HEAD = (
    "contender",
    "settings",
    "requests/s (range)",
    "ours to it (range of rounds)",
    "p50 / p99 (ms)",
    "busy: cores / accelerator",
    "memory of workers (MiB)",
    "not 2xx",
)
TARGETS_HEAD = (
    "workload",
    "measure",
    "ratio of",
    "to",
    "target",
    "measured (range of rounds)",
    "reached",
)
LIMIT_TITLE = "the accelerator's limit (computed)"

MEASURES = {"rate": "requests/s", "p50_ms": "median latency"}


class Busy(NamedTuple):
    """The share of a sample's time in which something worked."""

    cores: float
    """Of all cores of the machine, whoever used them."""
    accelerator: float = 0.0
    """The compute engine of the emulated one."""


@dataclass
class Entry:
    """A contender in its settings, and what was measured."""

    contender: Contender
    measure: Measure
    found: Found
    samples: list[Sample] = field(default_factory=list)
    busy: list[Busy] = field(default_factory=list)
    """One for each sample."""
    memory_bytes: int = 0
    """Of all workers, and of what they have started, after the rounds."""

    def add(self, sample: Sample, busy: Busy) -> None:
        """Take one more sample."""
        self.samples.append(sample)
        self.busy.append(busy)

    @property
    def values(self) -> list[float]:
        """What contenders are compared by, for each sample."""
        return [getattr(sample, self.measure) for sample in self.samples]

    @property
    def failed(self) -> int:
        """Requests with an error status, or without an answer."""
        return sum(sample.refused + sample.lost for sample in self.samples)

    def figures(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "contender": self.contender.title,
            "decode_input_request": self.contender.decode,
            "settings": self.found.candidate,
            "search": self.found.record,
            "memory_bytes": self.memory_bytes,
            "samples": [
                {
                    **sample.figures(),
                    "cores_busy": round(busy.cores, 3),
                    "accelerator_busy": round(busy.accelerator, 3),
                }
                for sample, busy in zip(self.samples, self.busy, strict=True)
            ],
        }

    def cells(self, ours: Entry | None) -> list[str]:
        """For a row of the table; without the ratio for ours itself."""
        rates = [sample.rate for sample in self.samples]
        p50_ms, p99_ms = (
            median(getattr(sample, name) for sample in self.samples)
            for name in ("p50_ms", "p99_ms")
        )
        refused, lost = (
            sum(getattr(sample, name) for sample in self.samples) for name in ("refused", "lost")
        )
        decoded = "" if self.contender.decode else "; decode_input_request=false"
        return [
            self.contender.title,
            settings_of(self.found.candidate) + decoded,
            f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            "" if ours is None or ours is self else str(ratio(ours.values, self.values)),
            f"{p50_ms:,.2f} / {p99_ms:,.2f}",
            " / ".join(f"{median(shares):.0%}" for shares in zip(*self.busy, strict=True)),
            f"{self.memory_bytes / 2**20:,.0f}",
            f"{refused:,}" + (f", {lost:,} lost" if lost else ""),
        ]


@dataclass(frozen=True)
class Ratio:
    """One to another: of the medians, and the lowest and highest of a single round."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """The values of one, a value a round, to those of another; as many of both."""
    rounds = list(map(_quotient, one, other))
    return Ratio(_quotient(median(one), median(other)), min(rounds), max(rounds))


def _quotient(one: float, other: float) -> float:
    """A sample without a single answer has ratios too, so that the run gets its report."""
    return one / other if other else math.inf


def reached(target: Target, found: Ratio, measure: Measure) -> bool:
    """Whether the ratio, as it is printed, is as good as the target: high rates, low latencies."""
    value = round(found.value, 2)
    return value >= target.ratio if measure == "rate" else value <= target.ratio


def settings_of(candidate: Config) -> str:
    """A candidate in a few words."""
    section = candidate.get("micro_batching", {})
    words = [f"{candidate['minWorkers']} workers"] if "minWorkers" in candidate else []
    if "batchSize" in candidate:
        words.append(f"batchSize {candidate['batchSize']}")
    if "handler" in candidate:
        words.append(f"threads {candidate['handler']['threads']}")
    if "micro_batch_size" in section:
        words.append(f"micro_batch_size {_per_stage(section['micro_batch_size'], AUTO)}")
    if "parallelism" in section:
        words.append(f"parallelism {_per_stage(section['parallelism'], 1)}")
    if section.get("sort_by_length"):
        words.append("sort_by_length")
    if section.get("share_model"):
        words.append("share_model")
    return ", ".join(words) or "defaults"


def _per_stage(value: object, default: object) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return "/".join(str(value.get(stage, default)) for stage in STAGES)


def table(workload: Workload, entries: Sequence[Entry]) -> str:
    """A workload's contenders, in Markdown, and the limit of its accelerator."""
    ours = _ours(entries)
    rows = [entry.cells(ours) for entry in entries]
    if workload.limit is not None:
        settings = f"calls of {workload.config['batchSize']} without a gap"
        to_it = "" if ours is None else str(ratio(ours.values, _limits(workload.limit, ours)))
        rows.append([LIMIT_TITLE, settings, f"{workload.limit:,.0f}", to_it, "", "", "", ""])
    return markdown_table(HEAD, rows)


def targets_table(played: Sequence[tuple[Workload, Sequence[Entry]]]) -> str:
    """The targets and whether each is reached, in Markdown."""
    rows = []
    for workload, entries in played:
        sides = {entry.contender.key: (entry.contender.title, entry.values) for entry in entries}
        if workload.limit is not None and entries:
            sides[LIMIT] = (LIMIT_TITLE, _limits(workload.limit, entries[0]))
        for target in workload.targets:
            if not {target.of, target.against} <= sides.keys():
                continue
            (one, values), (other, others) = sides[target.of], sides[target.against]
            found = ratio(values, others)
            sign = "at least" if workload.measure == "rate" else "at most"
            emulated = " (emulated)" if workload.accelerator else ""
            rows.append(
                [
                    workload.name + emulated,
                    MEASURES[workload.measure],
                    one,
                    other,
                    f"{sign} {target.ratio:g}",
                    str(found),
                    "yes" if reached(target, found, workload.measure) else "no",
                ]
            )
    return markdown_table(TARGETS_HEAD, rows)


def _limits(limit: float, entry: Entry) -> list[float]:
    """The limit as a value for each round of an entry."""
    return [limit] * len(entry.values)


def _ours(entries: Sequence[Entry]) -> Entry | None:
    return next((entry for entry in entries if entry.contender.key == "ours"), None)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
