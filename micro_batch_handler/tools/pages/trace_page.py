"""The files of the trace command: events, a picture, and a page that says what to change."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill

from micro_batch_handler import __version__
from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.tools.pages import page as html
from micro_batch_handler.tools.pages.trace_picture import Drawn, draw
from micro_batch_handler.tracing.diagnosis import Diagnosis, diagnose, typical
from micro_batch_handler.tracing.host_use import host_bars, queued
from micro_batch_handler.tracing.lane_use import critical_path, idle_spans, lane_names
from micro_batch_handler.tracing.recording import Trace, TracedBatch, on_one_clock
from micro_batch_handler.tracing.trace_json import to_json

__all__ = ["write"]

DPI = 100
TITLE_CHARS = 150
"""Of a line above the picture in trace.png."""


def write(trace: Trace, folder: Path, others: Sequence[Trace] = ()) -> tuple[Diagnosis, list[Path]]:
    """Write trace.json, trace.png and trace.html; gives the diagnosis and their paths.

    Args:
        trace: of a worker.
        folder: where the files go.
        others: of other workers of the model.

    Raises:
        TraceError: the traces have no batch with calls, or are not of one model on one clock.
        OSError: the folder cannot be written to.
    """
    traces = on_one_clock([trace, *others]) if others else [trace]
    found = diagnose([batch for each in traces for batch in each.batches], trace.setup)
    at, batch = shown(traces)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"trace.{kind}" for kind in ("json", "png", "html")]
    files[0].write_text(to_json(*traces), encoding="utf-8")
    picture = draw(traces, at, batch)
    files[2].write_text(page(traces, at, batch, found, picture), encoding="utf-8")
    figure = picture.figure
    figure.suptitle(fill(str(found), TITLE_CHARS), x=0.01, ha="left", fontsize=9)
    figure.savefig(files[1], dpi=DPI, metadata={"Software": None})
    return found, files


def shown(traces: Sequence[Trace]) -> tuple[int, TracedBatch]:
    """The batch that the picture shows, and whose it is: the typical one of median length."""
    alike = sorted(
        typical([batch for each in traces for batch in each.batches]),
        key=lambda batch: batch.wall_s,
    )
    batch = alike[(len(alike) - 1) // 2]
    owners = (at for at, each in enumerate(traces) if any(b is batch for b in each.batches))
    return next(owners), batch


def page(
    traces: Sequence[Trace], at: int, batch: TracedBatch, found: Diagnosis, picture: Drawn
) -> str:
    """The page, as HTML."""
    trace = traces[at]
    setup = trace.setup
    number = next(place for place, other in enumerate(trace.batches) if other is batch)
    alike = len(typical([each for one in traces for each in one.batches]))
    worker = f" of worker {at + 1}" if len(traces) > 1 else ""
    host = _host(batch)
    caption = (
        f"Batch {number}{worker}: {batch.rows} requests in {batch.wall_s * 1e3:.4g} ms, the one of "
        f"median length of {alike} alike. Micro-batches of at most: {_by_stage(batch.plan)}. Bars "
        "say which requests are in a call."
    )
    if host:
        caption += (
            " The model host's bars say how many rows of a host call are of "
            f"{'these workers' if worker else 'this worker'}; where it has no bar, it was idle or "
            "computed for others."
        )
    count = sum(len(each.batches) for each in traces)
    svg = html.inline_svg(picture.figure, f"the lanes during batch {number}", picture.tips)
    parts = [
        html.paragraph(found.advice, found.finding),
        html.figure(svg, caption),
        html.heading("Lanes"),
        html.table(["lane", "calls", "busy (ms)", "idle (ms)", "busy"], _lanes(trace, batch)),
        html.heading("Stages"),
        html.table(
            ["stage", "calls", "mean call (ms)", "mean wait (ms)", "critical (ms)"],
            _stages(batch),
        ),
    ]
    if host:
        head = ["model host", "calls", "rows", "own rows", "mean call (ms)", "mean wait (ms)"]
        parts += [html.heading("Model host"), html.table(head, host)]
    parts.append(
        html.paragraph(
            "A call waits from when its rows are ready until a lane takes it. "
            + ("In a call of a hosted stage is what it waits for the model host. " if host else "")
            + "The critical path goes back from the end of the batch: each call on it waited last "
            "for the call before, for its rows or for its lane. trace.json opens in Perfetto "
            f"(ui.perfetto.dev), with all {count} batches. The shares at the top are of all "
            f"{alike} alike."
        )
    )
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


def _host(batch: TracedBatch) -> list[list[str]]:
    """What the batch had of the model host, a row for each hosted stage; empty without a host."""
    bars = host_bars((0, call) for call in batch.calls)
    rows = []
    for stage in STAGES:
        own = [bar for bar in bars if bar.stage == stage]
        if not own:
            continue
        waits_s = [
            ended_s - began_s
            for call in batch.calls
            for of, began_s, ended_s in queued(call)
            if of == stage
        ]
        parts = sum(len(bar.parts) for bar in own)
        rows.append(
            [
                stage,
                str(len(own)),
                f"{fmean(bar.host.rows for bar in own):.1f}",
                f"{fmean(bar.own_rows for bar in own):.1f}",
                f"{fmean(bar.host.worked_s for bar in own) * 1e3:,.2f}",
                f"{sum(waits_s) / parts * 1e3:,.2f}",
            ]
        )
    return rows
