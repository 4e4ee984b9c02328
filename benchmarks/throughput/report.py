"""The files of a run: every sample as JSON, and the tables as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.throughput.rounds import Lengths
from benchmarks.throughput.summary import Entry, table, targets_table
from benchmarks.throughput.workload import Workload
from harness.settings import OVERRIDES

__all__ = ["markdown", "write"]


def markdown(
    about: Mapping[str, Any], lengths: Lengths, played: Sequence[tuple[Workload, Sequence[Entry]]]
) -> str:
    """What benchmarks/README.md shows."""
    parts = []
    for workload, entries in played:
        threads = "1 client" if workload.clients == 1 else f"{workload.clients} clients"
        config = ", ".join(f"{key} {value}" for key, value in workload.config.items())
        parts += [
            f"### {workload.name}",
            f"{workload.title}. {threads}, {config}.",
            table(workload, entries),
        ]
    parts += ["### Targets", targets_table(played)]
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    parts.append(
        f"{lengths.rounds} rounds of {lengths.seconds:g} s after {lengths.warm_up_s:g} s of "
        f"warm-up, contenders in turn; medians. {told}."
    )
    return "\n\n".join(parts) + "\n"


def write(
    path: Path,
    about: Mapping[str, Any],
    lengths: Lengths,
    played: Sequence[tuple[Workload, Sequence[Entry]]],
) -> list[Path]:
    """Write `path` (JSON) and its neighbour with `.md`; gives back both."""
    result = {
        **about,
        "lengths": asdict(lengths),
        "config.properties": {"overrides for all": OVERRIDES},
        "workloads": [
            {
                "name": workload.name,
                "title": workload.title,
                "clients": workload.clients,
                "config": workload.config_for({}, "(a temporary file)"),
                "measure": workload.measure,
                "limit": workload.limit,
                "targets": [asdict(target) for target in workload.targets],
                "contenders": [entry.figures() for entry in entries],
            }
            for workload, entries in played
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tables = path.with_suffix(".md")
    tables.write_text(markdown(about, lengths, played), encoding="utf-8")
    return [path, tables]
