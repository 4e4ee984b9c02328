"""The files of a run: every sample as JSON, tables as Markdown, plots on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.peers.page import page
from benchmarks.peers.rounds import Entry, Lengths
from benchmarks.peers.servers import TorchServeServer
from benchmarks.throughput.summary import markdown_table, settings_of
from benchmarks.throughput.workload import Workload

__all__ = ["Played", "markdown", "table", "write"]

Played: TypeAlias = "Sequence[tuple[str, Workload, Sequence[Entry]]]"
"""The name of each workload, itself, and its servers."""

MIB = 2**20


def markdown(about: Mapping[str, Any], lengths: Lengths, played: Played) -> str:
    """What benchmarks/README.md shows."""
    parts = []
    for name, workload, entries in played:
        parts += [f"### {name}", f"{workload.title}.", table(entries, lengths.clients)]
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    parts.append(
        f"{lengths.rounds} rounds of {lengths.seconds:g} s, servers in turn; medians. {told}."
    )
    return "\n\n".join(parts) + "\n"


def table(entries: Sequence[Entry], clients: Sequence[int]) -> str:
    """A workload's servers, the fastest first, in Markdown."""
    most = 64 if 64 in clients else max(clients)  # noqa: PLR2004 - the usual load
    head = ["server", "settings"]
    head += [f"requests/s, {count} client{'s' * (count > 1)}" for count in clients]
    head += [f"p50 / p90 / p99 (ms), {most} clients", "CPU s per 1,000", "memory (MiB)", "failed"]
    head += ["good requests that failed beside 2 % bad ones"]
    rows = []
    for entry in sorted(entries, key=lambda each: -each.of(most, "rate")):
        latencies = (f"{entry.of(most, name):,.1f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
        faults = entry.faults
        rows.append(
            [
                entry.server.title,
                _settings(entry),
                *(f"{entry.of(count, 'rate'):,.0f}" for count in clients),
                " / ".join(latencies),
                f"{entry.cpu_s_per_1000(most):.2f}",
                f"{entry.memory_bytes / MIB:,.0f}",
                f"{entry.failed:,}",
                "" if faults is None else f"{faults.share:.1%} of {faults.good:,}",
            ]
        )
    return markdown_table(head, rows)


def _settings(entry: Entry) -> str:
    candidate = entry.found.candidate
    if isinstance(entry.server, TorchServeServer):
        return settings_of(candidate)
    return ", ".join(f"{key} {value}" for key, value in candidate.items())


def write(path: Path, about: Mapping[str, Any], lengths: Lengths, played: Played) -> list[Path]:
    """Write `path` (JSON) and its neighbours with `.md` and `.html`; gives back all."""
    result = {
        **about,
        "lengths": asdict(lengths),
        "workloads": [
            {
                "name": name,
                "title": workload.title,
                "config": workload.config_for({}, "(a temporary file)"),
                "servers": [entry.figures() for entry in entries],
            }
            for name, workload, entries in played
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tables, plots = path.with_suffix(".md"), path.with_suffix(".html")
    tables.write_text(markdown(about, lengths, played), encoding="utf-8")
    plots.write_text(page(about, lengths, played), encoding="utf-8")
    return [path, tables, plots]
