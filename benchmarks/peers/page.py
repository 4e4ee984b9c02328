"""Throughput against latency, a curve for each server: one self-contained page, or pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.peers.measured import fastest_first
from micro_batch_handler.tools.pages import page as html

__all__ = ["page", "plot"]

PLAIN = FuncFormatter(lambda value, _: f"{value:,g}")
"""Ticks as numbers, where logarithmic axes have powers of ten."""

FEW = FuncFormatter(lambda value, _: f"{value:,g}" if f"{value:e}"[0] in "25" else "")
"""Between them not all, or they would run into one another."""

MARKERS = "osD^vP*Xph>"
COLORS = (*(f"C{number}" for number in range(10)), "black")
MIB = 2**20


def page(result: Mapping[str, Any]) -> str:
    """The page of a result, as HTML; it loads nothing."""
    clients = result["lengths"]["clients"]
    parts = [
        html.paragraph(
            "To the right is more throughput, downwards is less waiting. Each point is a number of "
            f"clients: {', '.join(map(str, clients))}; the median of its rounds, of which "
            f"there were {result['lengths']['rounds']}."
        )
    ]
    for workload in result["workloads"]:
        if not workload["servers"]:
            continue
        name = workload["name"]
        caption = (
            f"Requests per second against the median latency, {name}; both axes are logarithmic."
        )
        parts += [
            html.heading(name),
            html.paragraph(f"{workload['title']}."),
            html.figure(plot(workload, clients), caption),
            _table(workload["servers"], clients),
        ]
    about_it = ", ".join(f"{key} {value}" for key, value in result["about"].items())
    return html.page("Servers compared", parts, about_it)


def plot(workload: Mapping[str, Any], clients: Sequence[int]) -> str:
    """The picture of a workload, as SVG."""
    with mpl.rc_context({"font.family": "sans-serif"}):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        axes = figure.subplots()
        servers = fastest_first(workload["servers"], clients)
        names = sorted(each.title for each in servers)  # so that a server looks alike everywhere
        for each in servers:
            number = names.index(each.title)
            rates = [each.of(count, "rate") for count in clients]
            waits_ms = [each.of(count, "p50_ms") for count in clients]
            axes.plot(
                rates,
                waits_ms,
                marker=MARKERS[number % len(MARKERS)],
                color=COLORS[number % len(COLORS)],
                linewidth=3 if each.ours else 1.5,
                label=each.title,
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
        return html.inline_svg(figure, f"throughput against latency, {workload['name']}")


def _table(servers: Sequence[Mapping[str, Any]], clients: Sequence[int]) -> str:
    head = ["server"]
    for count in clients:
        head += [f"requests/s, {count}", f"p50 (ms), {count}", f"p99 (ms), {count}"]
    head += ["CPU s per 1,000", "memory (MiB)"]
    rows = []
    for each in fastest_first(servers, clients):
        cells = [each.title]
        for count in clients:
            cells += [
                f"{each.of(count, 'rate'):,.0f}",
                f"{each.of(count, 'p50_ms'):,.1f}",
                f"{each.of(count, 'p99_ms'):,.1f}",
            ]
        cells += [
            f"{each.cpu_s_per_1000(clients[-1]):.2f}",
            f"{each.memory_bytes / MIB:,.0f}",
        ]
        rows.append(cells)
    return html.table(head, rows)
