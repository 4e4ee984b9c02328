"""The page of the tune command, with throughput against latency drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.pages.page import (
    figure,
    heading,
    inline_svg,
    page,
    paragraph,
    preformatted,
    table,
)
from micro_batch_handler.tools.tuning.load import Figures
from micro_batch_handler.tools.tuning.report import (
    ALREADY,
    blocks,
    costs_table,
    figures_table,
    keys_of,
    notes,
    reasons,
)
from micro_batch_handler.tools.tuning.result import Tuning, frontier
from micro_batch_handler.tools.tuning.yaml_file import as_yaml

__all__ = ["draw", "written"]

DPI = 150

CAPTION = (
    "Throughput grows to the right, latency upwards. Each point is a setting that was run; its "
    "number is batchSize. No setting that was run is better in both than those on the line. "
    "Latency is the p99 under full load."
)


def draw(tuning: Tuning) -> Any:
    """The settings that were run, as a figure of matplotlib's."""
    from matplotlib.figure import Figure  # of an extra, which only those who draw have

    drawn = Figure(figsize=(9, 6), layout="constrained")
    axes = drawn.subplots()
    front = frontier(tuning.tried)
    predicted = [tuning.predicted[each.setting] for each in tuning.tried]
    axes.plot(*_points(predicted), "x", color="0.6", label="predicted before it was run")
    axes.plot(*_points(tuning.tried), "o", color="C0", markersize=5, label="run")
    axes.plot(*_points(front), "-", color="C0", linewidth=2, label="the best of these")
    for each in front:
        axes.annotate(
            str(each.setting.batch_size),
            (each.rate, each.p99_s * 1000),
            textcoords="offset points",
            xytext=(6, -11),
            fontsize=9,
        )
    if tuning.given is not None:
        axes.plot(*_points([tuning.given]), "s", color="C1", markersize=9, label="as it is")
    for number, (wanted, found) in enumerate(blocks(tuning)):
        if found.measured is not None:
            axes.plot(
                *_points([found.measured]),
                "*",
                color=f"C{number + 2}",
                markersize=15 - 2 * number,
                label=f"for {wanted}",
            )
    for limit_ms in {1000 * each.goal.p99_s for each in tuning.recommendations if each.goal.p99_s}:
        axes.axhline(limit_ms, color="0.4", linestyle=":", linewidth=1.5)
    axes.set_xlim(0, 1.08 * max(each.rate for each in [*tuning.tried, *predicted]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests per second")
    axes.set_ylabel("p99 latency (ms)")
    axes.grid(visible=True, alpha=0.25)
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawn


def written(tuning: Tuning, title: str, about: str, target: Path) -> list[Path]:
    """Write the page, and the picture beside it as PNG; gives both paths."""
    drawn = draw(tuning)
    picture = target.with_suffix(".png")
    drawn.savefig(picture, dpi=DPI, metadata={"Software": None})
    parts = [paragraph(f"Note: {note}") for note in notes(tuning)]
    parts.append(figure(inline_svg(drawn, "throughput against latency"), CAPTION))
    parts += [heading("Figures"), table(*figures_table(tuning))]
    for wanted, each in blocks(tuning):
        parts.append(heading(f"For {wanted}{ALREADY if each.already else ''}"))
        if each.measured is None:
            parts.append(paragraph("No setting that was run keeps to it."))
            continue
        parts.append(preformatted(as_yaml(keys_of(each))))
        parts += [paragraph(reason) for reason in reasons(tuning, each)]
    parts += [
        heading("What calls cost, each stage alone"),
        table(*costs_table(tuning)),
        heading("All that was run"),
        table(*_all(tuning)),
    ]
    target.write_text(page(title, parts, about), encoding="utf-8")
    return [target, picture]


def _points(figures: Sequence[Figures]) -> tuple[list[float], list[float]]:
    return [each.rate for each in figures], [each.p99_s * 1000 for each in figures]


def _all(tuning: Tuning) -> tuple[list[str], list[list[str]]]:
    head = ["setting", "requests/s", "predicted", "p99 (ms)", "predicted", "batches", "spread"]
    rows = []
    for ran in sorted(tuning.tried, key=lambda each: -each.rate):
        predicted = tuning.predicted[ran.setting]
        rates = [f"{each.rate:,.0f}" for each in (ran, predicted)]
        p99s_ms = [f"{each.p99_s * 1000:.3g}" for each in (ran, predicted)]
        rows.append([str(ran.setting), *rates, *p99s_ms, str(ran.batches), f"{ran.spread:.1%}"])
    return head, rows
