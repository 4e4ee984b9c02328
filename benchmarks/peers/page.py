"""One self-contained page: throughput against latency, a curve for each server, and the figures."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.peers.rounds import Entry, Lengths
from benchmarks.throughput.workload import Workload

__all__ = ["page"]

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; }
figure svg { width: 100%; height: auto; }
figcaption { color: #333; font-size: .9rem; padding: 0 .5rem .5rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #8886; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
footer { font-size: .8rem; opacity: .8; }
@media print { body { max-width: none; margin: 0; } figure { break-inside: avoid; } }
"""

PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")
"""Ticks as numbers, where logarithmic axes have powers of ten."""

FEW = FuncFormatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")
"""Between them not all, or they would run into one another."""

MARKERS = "osD^vP*Xph"
MIB = 2**20


def page(
    about: Mapping[str, Any],
    lengths: Lengths,
    played: Sequence[tuple[str, Workload, Sequence[Entry]]],
) -> str:
    """The page, as HTML; it loads nothing."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>Servers compared</title>",
        f"<style>{STYLE}</style></head><body>",
        "<h1>Servers compared</h1>",
        "<p>To the right is more throughput, downwards is less waiting. Each point is a number of "
        f"clients: {', '.join(map(str, lengths.clients))}; the median of its rounds, of which "
        f"there were {lengths.rounds}.</p>",
    ]
    for name, workload, entries in played:
        if not entries:
            continue
        title = html.escape(workload.title)
        parts.append(f"<h2>{html.escape(name)}</h2><p>{title}.</p>")
        parts.append(f"<figure>{_plot(entries, lengths.clients, name)}")
        parts.append(
            f"<figcaption>Requests per second against the median latency, {html.escape(name)}; "
            "both axes are logarithmic.</figcaption></figure>"
        )
        parts.append(f'<div class="wide">{_table(entries, lengths.clients)}</div>')
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    parts.append(f"<footer><p>{html.escape(told)}</p></footer></body></html>")
    return "\n".join(parts) + "\n"


def _plot(entries: Sequence[Entry], clients: Sequence[int], name: str) -> str:
    # Text stays text, and identifiers do not change from run to run.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes = figure.subplots()
        for number, entry in enumerate(sorted(entries, key=_fastest(clients))):
            rates = [entry.of(count, "rate") for count in clients]
            waits_ms = [entry.of(count, "p50_ms") for count in clients]
            axes.plot(
                rates,
                waits_ms,
                marker=MARKERS[number % len(MARKERS)],
                color=f"C{number}",
                linewidth=3 if entry.server.key == "ours" else 1.5,
                label=entry.server.title,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PLAIN)
            axis.set_minor_formatter(FEW)
        axes.tick_params(which="minor", labelsize=7)
        axes.set_xlabel("requests per second")
        axes.set_ylabel("median latency (ms)")
        axes.grid(visible=True, which="both", alpha=0.25)
        figure.legend(loc="outside right upper", frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    label = f'<svg role="img" aria-label="throughput against latency, {html.escape(name)}"'
    return text[text.index("<svg") :].replace("<svg", label, 1)


def _table(entries: Sequence[Entry], clients: Sequence[int]) -> str:
    head = ["server"]
    for count in clients:
        head += [f"requests/s, {count}", f"p50 (ms), {count}", f"p99 (ms), {count}"]
    head += ["CPU s per 1,000", "memory (MiB)"]
    rows = []
    for entry in sorted(entries, key=_fastest(clients)):
        cells = [entry.server.title]
        for count in clients:
            cells += [
                f"{entry.of(count, 'rate'):,.0f}",
                f"{entry.of(count, 'p50_ms'):,.1f}",
                f"{entry.of(count, 'p99_ms'):,.1f}",
            ]
        cells += [
            f"{entry.cpu_s_per_1000(clients[-1]):.2f}",
            f"{entry.memory_bytes / MIB:,.0f}",
        ]
        rows.append(cells)
    lines = ["<table><thead>", _row(head, "th"), "</thead><tbody>"]
    lines += [_row(cells, "td") for cells in rows]
    return "\n".join([*lines, "</tbody></table>"])


def _row(cells: Sequence[str], kind: str) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"


def _fastest(clients: Sequence[int]) -> Any:
    return lambda entry: -max(entry.of(count, "rate") for count in clients)
