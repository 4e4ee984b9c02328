"""The files of the trace command: events, a picture, and a page that says what to change."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

from micro_batch_handler import __version__
from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.tools.pages import page as html
from micro_batch_handler.tools.pages.trace_picture import draw
from micro_batch_handler.tracing.diagnosis import Diagnosis, diagnose, typical
from micro_batch_handler.tracing.lane_use import critical_path, idle_spans, lane_names
from micro_batch_handler.tracing.recording import Trace, TracedBatch
from micro_batch_handler.tracing.trace_json import to_json

__all__ = ["write"]

DPI = 100
TITLE_CHARS = 150
"""Of a line above the picture in trace.png."""


def write(trace: Trace, folder: Path) -> tuple[Diagnosis, list[Path]]:
    """Write trace.json, trace.png and trace.html; gives the diagnosis and their paths.

    Raises:
        TraceError: the trace has no batch with calls.
        OSError: the folder cannot be written to.
    """
    found = diagnose(trace.batches, trace.setup)
    batch = shown(trace)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"trace.{kind}" for kind in ("json", "png", "html")]
    files[0].write_text(to_json(trace), encoding="utf-8")
    picture = draw(trace, batch)
    files[2].write_text(page(trace, batch, found, picture), encoding="utf-8")
    picture.suptitle(fill(str(found), TITLE_CHARS), x=0.01, ha="left", fontsize=9)
    picture.savefig(files[1], dpi=DPI, metadata={"Software": None})
    return found, files


def shown(trace: Trace) -> TracedBatch:
    """The batch that the picture shows: the typical one of median length."""
    alike = sorted(typical(trace.batches), key=lambda batch: batch.wall_s)
    return alike[(len(alike) - 1) // 2]


def page(trace: Trace, batch: TracedBatch, found: Diagnosis, picture: object) -> str:
    """The page, as HTML."""
    setup = trace.setup
    number = next(at for at, other in enumerate(trace.batches) if other is batch)
    alike = len(typical(trace.batches))
    caption = (
        f"Batch {number}: {batch.rows} requests in {batch.wall_s * 1e3:.4g} ms, the one of median "
        f"length of {alike} alike. Micro-batches of at most: {_by_stage(batch.plan)}. Bars say "
        "which requests are in a call."
    )
    parts = [
        html.paragraph(found.advice, found.finding),
        html.figure(html.inline_svg(picture, f"the lanes during batch {number}"), caption),
        html.heading("Lanes"),
        html.table(["lane", "calls", "busy (ms)", "idle (ms)", "busy"], _lanes(trace, batch)),
        html.heading("Stages"),
        html.table(
            ["stage", "calls", "mean call (ms)", "mean wait (ms)", "critical (ms)"],
            _stages(batch),
        ),
        html.paragraph(
            "A call waits from when its rows are ready until a lane takes it. The critical path "
            "goes back from the end of the batch: each call on it waited last for the call before, "
            "for its rows or for its lane. trace.json opens in Perfetto (ui.perfetto.dev), with "
            f"all {len(trace.batches)} batches. The shares at the top are of all {alike} alike."
        ),
    ]
    threads = "" if setup.threads is None else _threads(setup.threads)
    about = (
        f"{setup.model}: batchSize {setup.batch_size}; lanes: {_by_stage(setup.lanes)}; "
        f"{setup.cores} cores. "
        f"{threads}micro_batch_handler {__version__}, Python {sys.version.split()[0]}."
    )
    return html.page(f"Where a batch of {setup.model} spends its time", parts, about)


def _threads(threads: IntraOpThreads) -> str:
    counts = _by_stage(threads.lanes)
    return f"PyTorch's threads in a call: {counts}, in a whole batch {threads.whole}. "


def _by_stage(values: Iterable[int]) -> str:
    return ", ".join(f"{stage} {value}" for stage, value in zip(STAGES, values, strict=True))


def _lanes(trace: Trace, batch: TracedBatch) -> list[list[str]]:
    rows = []
    for name in lane_names(trace):
        calls = [call for call in batch.calls if call.thread == name]
        idle_s = sum(span.ended_s - span.began_s for span in idle_spans(batch, name))
        busy_s = batch.wall_s - idle_s
        share = busy_s / batch.wall_s if batch.wall_s else 0.0
        busy, idle = f"{busy_s * 1e3:,.2f}", f"{idle_s * 1e3:,.2f}"
        rows.append([name, str(len(calls)), busy, idle, f"{100 * share:.0f} %"])
    return rows


def _stages(batch: TracedBatch) -> list[list[str]]:
    rows = []
    critical = critical_path(batch)
    for stage in STAGES:
        calls = [call for call in batch.calls if call.stage == stage]
        count = max(1, len(calls))
        mean_s = sum(call.ended_s - call.began_s for call in calls) / count
        wait_s = sum(call.began_s - call.ready_s for call in calls) / count
        path_s = sum(call.ended_s - call.began_s for call in critical if call.stage == stage)
        times = [f"{seconds * 1e3:,.2f}" for seconds in (mean_s, wait_s, path_s)]
        rows.append([stage, str(len(calls)), *times])
    return rows
