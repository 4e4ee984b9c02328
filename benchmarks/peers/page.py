"""One self-contained page: throughput against latency, a curve for each server, and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.peers.rounds import Entry, Lengths
from benchmarks.throughput.workload import Workload
from micro_batch_handler.tools.pages import page as html

__all__ = ["page"]

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
        html.paragraph(
            "To the right is more throughput, downwards is less waiting. Each point is a number of "
            f"clients: {', '.join(map(str, lengths.clients))}; the median of its rounds, of which "
            f"there were {lengths.rounds}."
        )
    ]
    for name, workload, entries in played:
        if not entries:
            continue
        caption = (
            f"Requests per second against the median latency, {name}; both axes are logarithmic."
        )
        parts += [
            html.heading(name),
            html.paragraph(f"{workload.title}."),
            html.figure(_plot(entries, lengths.clients, name), caption),
            _table(entries, lengths.clients),
        ]
    about_it = ", ".join(f"{key} {value}" for key, value in about.items())
    return html.page("Servers compared", parts, about_it)


def _plot(entries: Sequence[Entry], clients: Sequence[int], name: str) -> str:
    with mpl.rc_context({"font.family": "sans-serif"}):
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
        return html.inline_svg(figure, f"throughput against latency, {name}")


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
    return html.table(head, rows)


def _fastest(clients: Sequence[int]) -> Any:
    return lambda entry: -max(entry.of(count, "rate") for count in clients)
