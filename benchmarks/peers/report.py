"""The files of a run: every sample as JSON, tables as Markdown, plots on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.peers.measured import fastest_first
from benchmarks.peers.page import page
from benchmarks.peers.rounds import Entry, Lengths
from benchmarks.throughput.summary import markdown_table
from benchmarks.throughput.workload import Workload

__all__ = ["Played", "conditions", "markdown", "result_of", "table", "write"]

Played: TypeAlias = "Sequence[tuple[str, Workload, Sequence[Entry]]]"
"""The name of each workload, itself, and its servers."""

MIB = 2**20
USUAL = 64
"""Clients, whose latencies the tables show."""


def result_of(about: Mapping[str, Any], lengths: Lengths, played: Played) -> dict[str, Any]:
    """All that was measured, as it stands in the JSON file; pages and tables are made of that."""
    return {
        "about": dict(about),
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


def markdown(result: Mapping[str, Any]) -> str:
    """What a page in Markdown shows of a result."""
    parts = []
    for workload in result["workloads"]:
        parts += [f"### {workload['name']}", f"{workload['title']}."]
        parts += [table(workload["servers"], result["lengths"]["clients"])]
    return "\n\n".join([*parts, conditions(result)]) + "\n"


def conditions(result: Mapping[str, Any]) -> str:
    """How, where and when it was measured."""
    told = ", ".join(f"{key} {value}" for key, value in result["about"].items())
    lengths = result["lengths"]
    return (
        f"{lengths['rounds']} rounds of {lengths['seconds']:g} s, servers in turn; medians. {told}."
    )


def table(servers: Sequence[Mapping[str, Any]], clients: Sequence[int]) -> str:
    """A workload's servers, the fastest first, in Markdown."""
    most = USUAL if USUAL in clients else max(clients)
    head = ["server", "settings"]
    head += [f"requests/s, {count} client{'s' * (count > 1)}" for count in clients]
    head += [f"p50 / p90 / p99 (ms), {most} clients", "CPU s per 1,000", "memory (MiB)", "failed"]
    head += ["good requests that failed beside 2 % bad ones"]
    rows = []
    for each in fastest_first(servers, [most]):
        latencies = (f"{each.of(most, name):,.1f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
        rows.append(
            [
                each.title,
                each.settings,
                *(f"{each.of(count, 'rate'):,.0f}" for count in clients),
                " / ".join(latencies),
                f"{each.cpu_s_per_1000(most):.2f}",
                f"{each.memory_bytes / MIB:,.0f}",
                f"{each.failed:,}",
                each.harmed,
            ]
        )
    return markdown_table(head, rows)


def write(path: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write `path` (JSON) and its neighbours with `.md` and `.html`; gives back all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tables, plots = path.with_suffix(".md"), path.with_suffix(".html")
    tables.write_text(markdown(result), encoding="utf-8")
    plots.write_text(page(result), encoding="utf-8")
    return [path, tables, plots]
