"""A picture of one batch: lanes as rows, calls as bars, waits hatched, the critical path marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from micro_batch_handler.config import STAGES, Stage
from micro_batch_handler.pipeline.call import INLINE, LANE, CallRecord
from micro_batch_handler.tracing.lane_use import critical_path, idle_spans, lane_names, waiting
from micro_batch_handler.tracing.recording import Trace, TracedBatch

__all__ = ["draw"]

WIDTH_IN = 11.0
ROW_IN = 0.42
BAR = 0.74
"""Of a row's height."""
QUEUE = 0.6
"""Height of a stage's queue, in rows."""

COLOURS = "viridis"
MOST_IN_LEGEND = 6
CHAR_IN = 0.085
"""More than the width of a character of a bar's text, in any usual font."""

EDGES_IN = 0.05
"""A narrower bar is drawn without its white edge, which would hide it."""

IDLE: dict[str, Any] = {
    "facecolor": "#f4f4f4",
    "edgecolor": "#c9c9c9",
    "hatch": "////",
    "linewidth": 0,
}
WAITING: dict[str, Any] = {
    "facecolor": "#fff3e0",
    "edgecolor": "#e69138",
    "hatch": "\\\\\\\\",
    "linewidth": 0,
}
CRITICAL = "#d62728"


def draw(trace: Trace, batch: TracedBatch) -> Figure:
    """The picture of one batch of a trace, as a figure of matplotlib's."""
    with mpl.rc_context({"font.family": "sans-serif", "font.size": 9, "hatch.linewidth": 0.6}):
        return _Picture(trace, batch).drawn()


class _Picture:
    def __init__(self, trace: Trace, batch: TracedBatch) -> None:
        self._batch = batch
        used = {call.thread for call in batch.calls}
        # In a whole batch the lanes did nothing, in one that was cut the caller.
        names = [name for name in lane_names(trace) if (name == INLINE) == (INLINE in used)]
        self._idle = False
        self._rows: dict[str, float] = {}
        self._queues: dict[Stage, float] = {}
        at = 0.0
        for stage in STAGES:
            own = [name for name in names if name.startswith(f"{LANE}{stage}-")]
            if own:
                self._queues[stage] = at
                at += QUEUE
            for name in own:
                self._rows[name] = at
                at += 1
            at += 0.3 if own else 0
        if not self._rows:
            self._rows[INLINE] = at
            at += 1
        self._height = at
        self._ms_in = (WIDTH_IN - 2.2) / (batch.wall_s * 1e3 or 1)
        figure_in = (WIDTH_IN, self._height * ROW_IN + 1.5)
        self._figure = Figure(figsize=figure_in, layout="constrained")
        self._axes = self._figure.subplots()

    def drawn(self) -> Figure:
        for thread, at in self._rows.items():
            for number, span in enumerate(idle_spans(self._batch, thread)):
                self._idle = True
                self._bar(f"idle-{thread}-{number}", span.began_s, span.ended_s, at, BAR, IDLE)
        for stage, at in self._queues.items():
            self._queue(stage, at)
        critical = critical_path(self._batch)
        marked = {id(call) for call in critical}
        for number, call in enumerate(self._batch.calls):
            self._call(number, call, critical=id(call) in marked)
        self._path(critical)
        self._legend()
        axes = self._axes
        axes.set_xlim(0, self._batch.wall_s * 1e3 or 1)
        axes.set_ylim(self._height, 0)
        axes.set_xlabel("ms since the batch was cut")
        labels = [(at + 0.5, name.removeprefix(LANE)) for name, at in self._rows.items()]
        axes.set_yticks([at for at, _ in labels], [name for _, name in labels])
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        return self._figure

    def _bar(
        self, name: str, began_s: float, ended_s: float, at: float, height: float, look: Any
    ) -> None:
        left_ms = (began_s - self._batch.began_s) * 1e3
        self._axes.barh(at + 0.5, (ended_s - began_s) * 1e3, height, left_ms, gid=name, **look)

    def _queue(self, stage: Stage, at: float) -> None:
        """How many micro-batches wait for a lane of the stage, above its lanes."""
        spans = waiting(self._batch, stage)
        most = max((number for _, number in spans), default=1)
        for place, (span, number) in enumerate(spans):
            height = (QUEUE - 0.1) * number / most
            top = at + QUEUE - height / 2 - 0.5
            self._bar(f"wait-{stage}-{place}", *span, top, height, WAITING)

    def _call(self, number: int, call: CallRecord, *, critical: bool) -> None:
        at = self._rows[call.thread]
        colour = self._colour(call.indices)
        wide_in = (call.ended_s - call.began_s) * 1e3 * self._ms_in
        narrow = wide_in < EDGES_IN
        look = {
            "facecolor": "none" if call.failed else colour,
            "edgecolor": CRITICAL if critical else colour if call.failed or narrow else "white",
            "linewidth": 1.8 if critical and not narrow else 0.6,
            "hatch": "xxx" if call.failed else None,
            "zorder": 3 if critical else 2,
        }
        self._bar(f"call-{number}", call.began_s, call.ended_s, at, BAR, look)
        # A lane belongs to one stage; the caller's row shows calls of all three.
        text = f"{call.stage} " if call.thread == INLINE else ""
        text += _rows(call.indices)
        if wide_in > CHAR_IN * (len(text) + 1):
            middle_ms = ((call.began_s + call.ended_s) / 2 - self._batch.began_s) * 1e3
            dark = sum(colour[:3]) < 1.5  # noqa: PLR2004 - half of what white has
            self._axes.text(
                middle_ms, at + 0.5, text, ha="center", va="center", zorder=4, clip_on=True,
                fontsize=8, color="black" if call.failed or not dark else "white",
            )  # fmt: skip

    def _path(self, calls: Sequence[CallRecord]) -> None:
        """A line from each call of the critical path to the next."""
        xs, ys = [], []
        for call in calls:
            for at_s in (call.began_s, call.ended_s):
                xs.append((at_s - self._batch.began_s) * 1e3)
                ys.append(self._rows[call.thread] + 0.5 + BAR / 2)
        self._axes.plot(xs, ys, color=CRITICAL, linewidth=1.4, zorder=3.5, gid="critical-path")

    def _legend(self) -> None:
        groups = self._coarsest()
        shown = groups
        if len(groups) > MOST_IN_LEGEND:
            shown = [groups[0], groups[len(groups) // 2], groups[-1]]
        entries: list[Any] = [
            Patch(facecolor=self._colour(rows), label=f"rows {_rows(rows)}") for rows in shown
        ]
        if len(shown) < len(groups):
            entries.insert(1, Line2D([], [], linestyle="none", label="…"))
            entries.insert(3, Line2D([], [], linestyle="none", label="…"))
        if self._queues:
            entries.append(Patch(**WAITING, label="micro-batches wait for a lane"))
        if self._idle:
            entries.append(Patch(**IDLE, label="a lane waits"))
        entries.append(Line2D([], [], color=CRITICAL, linewidth=1.8, label="critical path"))
        if any(call.failed for call in self._batch.calls):
            entries.append(Patch(facecolor="none", edgecolor="0.4", hatch="xxx", label="failed"))
        legend = self._figure.legend(
            handles=entries, loc="outside lower left", ncols=len(entries), frameon=False,
            fontsize=8, handlelength=1.6, columnspacing=1.2,
        )  # fmt: skip
        legend.set_gid("legend")

    def _coarsest(self) -> list[Sequence[int]]:
        """The micro-batches of the stage with the largest, in order."""
        largest = max(self._batch.calls, key=lambda call: len(call.indices))
        groups = {call.indices[0]: call.indices for call in self._batch.calls
                  if call.stage == largest.stage and not call.failed}  # fmt: skip
        return [groups[first] for first in sorted(groups)]

    def _colour(self, rows: Sequence[int]) -> tuple[float, float, float, float]:
        """The colour of some rows, by their middle: the same in every stage."""
        share = (rows[0] + rows[-1]) / 2 / max(1, self._batch.rows - 1)
        # Without the darkest and lightest colours, on which text and which on paper cannot be seen.
        red, green, blue, opaque = mpl.colormaps[COLOURS](0.12 + 0.83 * share)
        return red, green, blue, opaque


def _rows(indices: Sequence[int]) -> str:
    first, last = indices[0], indices[-1]
    return str(first) if first == last else f"{first}-{last}"
