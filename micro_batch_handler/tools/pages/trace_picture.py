"""A picture of one batch: lanes as rows, calls as bars, waits hatched, the critical path marked.

Of several workers of one model, it shows what the others did meanwhile; under the lanes is that of
the model host, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from micro_batch_handler.pipeline.call import INLINE, LANE, CallRecord
from micro_batch_handler.tools.pages.trace_looks import (
    BAR,
    CRITICAL,
    FAILED,
    IDLE,
    OTHERS,
    QUEUE,
    WAITING,
    Colour,
    colour_of,
    faint,
    is_dark,
    ms,
    rows_text,
)
from micro_batch_handler.tools.pages.trace_rows import TraceRows, coarsest
from micro_batch_handler.tracing.host_use import HostBar, host_calls_of
from micro_batch_handler.tracing.lane_use import Span, critical_path
from micro_batch_handler.tracing.recording import Trace, TracedBatch

__all__ = ["Drawn", "draw"]

WIDTH_IN = 11.0
ROW_IN = 0.42
MOST_IN_LEGEND = 6
LINE_CHARS = 150
"""Of the legend, with what stands beside its texts."""
CHAR_IN = 0.085
"""More than the width of a character of a bar's text, in any usual font."""

EDGES_IN = 0.05
"""A narrower bar is drawn without its white edge, which would hide it."""


class Drawn(NamedTuple):
    """A picture, and what it says of single bars."""

    figure: Figure
    tips: dict[str, str]
    """The identifier of a bar -> a line of text."""


def draw(traces: Sequence[Trace], shown: int, batch: TracedBatch) -> Drawn:
    """The picture of one batch.

    Args:
        traces: of one worker or several, on one clock.
        shown: whose batch it is, as a place in `traces`.
        batch: that is shown.
    """
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9, "hatch.linewidth": 0.6}):
        return _Picture(traces, shown, batch).drawn()


class _Picture:
    def __init__(self, traces: Sequence[Trace], shown: int, batch: TracedBatch) -> None:
        self._batch = batch
        self._shown = shown
        self._workers = len(traces)
        self._rows = TraceRows(traces, shown, batch)
        self._idle = False
        self._tips: dict[str, str] = {}
        self._ms_in = (WIDTH_IN - 2.2) / (batch.wall_s * 1e3 or 1)
        figure_in = (WIDTH_IN, self._rows.height * ROW_IN + 1.5)
        self._figure = Figure(figsize=figure_in, layout="constrained")
        self._axes = self._figure.subplots()

    def drawn(self) -> Drawn:
        rows = self._rows
        for (worker, thread), at in rows.lanes.items():
            for number, span in enumerate(rows.idle(worker, thread)):
                self._idle = True
                self._bar(f"idle-{worker}-{thread}-{number}", *span, at, BAR, IDLE)
        for (worker, stage), at in rows.queues.items():
            self._queue(f"{worker}-{stage}", at, rows.queue(worker, stage))
        critical = critical_path(self._batch)
        marked = {id(call) for call in critical}
        for number, (worker, call) in enumerate(rows.calls):
            self._call(number, worker, call, critical=id(call) in marked)
        self._path(critical)
        for stage, at in rows.hosts.items():
            self._queue(f"host-{stage}", at - QUEUE, rows.host_queue(stage))
        for number, bar in enumerate(rows.bars):
            self._host_call(number, bar)
        self._legend()
        self._set_up_axes()
        return Drawn(self._figure, self._tips)

    def _set_up_axes(self) -> None:
        axes, rows = self._axes, self._rows
        axes.set_xlim(0, self._batch.wall_s * 1e3 or 1)
        axes.set_ylim(rows.height, 0)
        axes.set_xlabel("ms since the batch was cut")
        labels = {
            at: (f"{worker + 1}: " if self._workers > 1 else "") + name.removeprefix(LANE)
            for (worker, name), at in rows.lanes.items()
        }
        labels.update({at: f"model host: {stage}" for stage, at in rows.hosts.items()})
        axes.set_yticks([at + 0.5 for at in labels], list(labels.values()))
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)

    def _bar(
        self, name: str, began_s: float, ended_s: float, at: float, height: float, look: Any
    ) -> None:
        left_ms = (began_s - self._batch.began_s) * 1e3
        self._axes.barh(at + 0.5, (ended_s - began_s) * 1e3, height, left_ms, gid=name, **look)

    def _queue(self, name: str, at: float, spans: Sequence[tuple[Span, int]]) -> None:
        """How many micro-batches wait, above the row of what they wait for."""
        most = max((number for _, number in spans), default=1)
        for place, (span, number) in enumerate(spans):
            height = (QUEUE - 0.1) * number / most
            top = at + QUEUE - height / 2 - 0.5
            self._bar(f"wait-{name}-{place}", *span, top, height, WAITING)

    def _call(self, number: int, worker: int, call: CallRecord, *, critical: bool) -> None:
        at = self._rows.lanes[worker, call.thread]
        colour = self._colour(worker, call.indices)
        began_s, ended_s = call.began_s, call.ended_s
        narrow = (ended_s - began_s) * 1e3 * self._ms_in < EDGES_IN
        waits = faint(colour) if call.host is not None else colour
        look = {
            "facecolor": "none" if call.failed else waits,
            "edgecolor": CRITICAL if critical else colour if call.failed or narrow else "white",
            "linewidth": 1.8 if critical and not narrow else 0.6,
            "hatch": FAILED if call.failed else None,
            "zorder": 3 if critical else 2,
        }
        self._bar(f"call-{number}", began_s, ended_s, at, BAR, look)
        tip = f"{call.stage}, rows {rows_text(call.indices)}: {ms(ended_s - began_s)}"
        if call.host is not None and not call.failed:
            # Its text goes where the host computes.
            host, began_s, ended_s = call.host, call.host.began_s, call.host.ended_s
            tip += f", of which {ms(host.waited_s)} waiting in the model host, then computed in "
            tip += f"{ms(host.worked_s)} with {host.rows} rows"
            look = {"facecolor": colour, "linewidth": 0, "zorder": 3.2}
            for stage, host in host_calls_of(call):
                name = f"part-{number}-{stage}"
                self._bar(name, host.began_s, host.ended_s, at, BAR * 0.8, look)
                self._tips[name] = tip
        self._tips[f"call-{number}"] = tip
        # A lane belongs to one stage; the caller's row shows calls of all three.
        text = f"{call.stage} " * (call.thread == INLINE) + rows_text(call.indices)
        dark = is_dark(colour) and not call.failed
        self._text(text, began_s, ended_s, at, "white" if dark else "black")

    def _host_call(self, number: int, bar: HostBar) -> None:
        """A host call: the rows of each traced worker in their colours, those of others grey."""
        host, middle = bar.host, self._rows.hosts[bar.stage]
        base = middle + (1 + BAR) / 2
        tip = (
            f"host call of {host.rows} rows in {ms(host.worked_s)}, {bar.own_rows} of them of "
            f"{'these workers' if self._workers > 1 else 'this worker'}"
        )
        look = {"facecolor": OTHERS, "edgecolor": "white", "linewidth": 0.6, "zorder": 2}
        self._bar(f"host-{number}", host.began_s, host.ended_s, middle, BAR, look)
        self._tips[f"host-{number}"] = tip
        for place, (worker, call) in enumerate(bar.parts):
            high = BAR * len(call.indices) / host.rows
            base -= high
            colour = self._colour(worker, call.indices)
            look.update(facecolor=colour, linewidth=0.3, zorder=3)
            name = f"own-{number}-{place}"
            self._bar(name, host.began_s, host.ended_s, base + high / 2 - 0.5, high, look)
            self._tips[name] = f"{tip}: rows {rows_text(call.indices)}"
        worker, call = bar.parts[len(bar.parts) // 2]
        dark = bar.own_rows * 2 > host.rows and is_dark(self._colour(worker, call.indices))
        self._text(
            f"{bar.own_rows} of {host.rows}",
            host.began_s,
            host.ended_s,
            middle,
            "white" if dark else "black",
        )

    def _text(self, text: str, began_s: float, ended_s: float, at: float, colour: str) -> None:
        """The text of a bar, if it is wide enough."""
        began_s, ended_s = max(began_s, self._batch.began_s), min(ended_s, self._batch.ended_s)
        wide_in = (ended_s - began_s) * 1e3 * self._ms_in
        if wide_in > CHAR_IN * (len(text) + 1):
            middle_ms = ((began_s + ended_s) / 2 - self._batch.began_s) * 1e3
            self._axes.text(
                middle_ms, at + 0.5, text, ha="center", va="center", zorder=4, clip_on=True,
                fontsize=8, color=colour,
            )  # fmt: skip

    def _path(self, calls: Sequence[CallRecord]) -> None:
        """A line from each call of the critical path to the next."""
        xs, ys = [], []
        for call in calls:
            for at_s in (call.began_s, call.ended_s):
                xs.append((at_s - self._batch.began_s) * 1e3)
                ys.append(self._rows.lanes[self._shown, call.thread] + 0.5 + BAR / 2)
        self._axes.plot(xs, ys, color=CRITICAL, linewidth=1.4, zorder=3.5, gid="critical-path")

    def _legend(self) -> None:
        groups = coarsest(self._batch)
        shown = groups
        if len(groups) > MOST_IN_LEGEND:
            shown = [groups[0], groups[len(groups) // 2], groups[-1]]
        entries: list[Any] = [
            Patch(facecolor=self._colour(self._shown, rows), label=f"rows {rows_text(rows)}")
            for rows in shown
        ]
        if len(shown) < len(groups):
            entries.insert(1, Line2D([], [], linestyle="none", label="…"))
            entries.insert(3, Line2D([], [], linestyle="none", label="…"))
        others = sorted({worker for worker, _ in self._rows.batches} - {self._shown})
        entries += [Patch(facecolor=self._colour(n, [0]), label=f"worker {n + 1}") for n in others]
        of = ["a lane"] * bool(self._rows.queues) + ["the model host"] * bool(self._rows.bars)
        if of:
            entries.append(Patch(**WAITING, label=f"micro-batches wait for {' or '.join(of)}"))
        if self._idle:
            entries.append(Patch(**IDLE, label="a lane waits"))
        if self._rows.bars:
            waits = faint(self._colour(self._shown, [0]))
            entries.append(Patch(facecolor=waits, label="a call waits for the model host"))
            entries.append(Patch(facecolor=OTHERS, label="rows of other workers"))
        entries.append(Line2D([], [], color=CRITICAL, linewidth=1.8, label="critical path"))
        if any(call.failed for _, call in self._rows.calls):
            entries.append(Patch(facecolor="none", edgecolor="0.4", hatch=FAILED, label="failed"))
        lines = -(-sum(len(entry.get_label()) + 6 for entry in entries) // LINE_CHARS)
        legend = self._figure.legend(
            handles=entries, loc="outside lower left", ncols=-(-len(entries) // lines),
            frameon=False, fontsize=8, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
        legend.set_gid("legend")

    def _colour(self, worker: int, rows: Sequence[int]) -> Colour:
        most = max((each.rows for of, each in self._rows.batches if of == worker), default=1)
        return colour_of(rows, most, worker, self._workers)
