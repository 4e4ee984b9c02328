"""What tuning has found, as text and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from micro_batch_handler.config import STAGES
from micro_batch_handler.tools.tuning.counts_compared import about_one_model, about_workers
from micro_batch_handler.tools.tuning.load import Figures
from micro_batch_handler.tools.tuning.result import NOISY, Recommendation, Tuning
from micro_batch_handler.tools.tuning.units import mib, ms
from micro_batch_handler.tools.tuning.yaml_file import as_yaml

__all__ = [
    "ALREADY",
    "MISSED",
    "blocks",
    "columns",
    "costs_table",
    "figures_table",
    "keys_of",
    "notes",
    "reasons",
    "report",
]

ALREADY = ", the setting is already best as it is"

MISSED = 0.2
"""The relative error above which a prediction is reported."""

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A head and its rows."""


def report(tuning: Tuning) -> str:
    """All of it, for a terminal."""
    parts = [
        f"What calls cost, each stage alone ({tuning.measured.rounds} rounds):",
        columns(costs_table(tuning)),
        f"{tuning.candidates} settings were computed, {len(tuning.tried)} of them run:",
        columns(figures_table(tuning)),
    ]
    parts += [_recommended(tuning, *block) for block in blocks(tuning)]
    parts += [f"Note: {note}" for note in notes(tuning)]
    return "\n\n".join(parts)


def costs_table(tuning: Tuning) -> Table:
    """What calls cost: in a lane, in a whole batch, and in several lanes."""
    measured = tuning.measured
    counts = sorted({count for _, count in measured.contention})
    head = ["stage", "a call", "a request more", "whole: a call", "a request more"]
    head += [f"in {count} lanes" for count in counts]
    rows = []
    for at, stage in enumerate(STAGES):
        cells: list[str] = [stage]
        for known in (measured.lanes[at].line, measured.whole[at].line):
            cells += [ms(known.fixed_s), ms(known.row_s) if known.slope_known else "unknown"]
        for count in counts:
            factor = measured.contention.get((at, count))
            cells.append("" if factor is None else f"x {factor:.2f}")
        rows.append(cells)
    return head, rows


def figures_table(tuning: Tuning) -> Table:
    """Predicted and measured figures of the setting in force and of those recommended."""
    head = ["setting", "requests/s", "predicted", "p50", "p99", "predicted", "memory", "predicted"]
    shown: dict[str, Figures] = {}
    if tuning.given is not None:
        shown["as it is"] = tuning.given
    for title, each in blocks(tuning):
        if each.measured is not None and not each.already:
            shown[title] = each.measured
    rows = [
        _cells(f"{title}: {figures.setting}", figures, tuning.predicted[figures.setting])
        for title, figures in shown.items()
    ]
    return head, rows


def blocks(tuning: Tuning) -> list[tuple[str, Recommendation]]:
    """The recommendations, each with the titles of all goals that it serves best."""
    found: dict[object, list[Recommendation]] = {}
    for each in tuning.recommendations:
        answer = each.goal if each.measured is None else each.measured.setting
        found.setdefault(answer, []).append(each)
    return [
        (" and ".join(each.goal.title for each in alike), alike[-1]) for alike in found.values()
    ]


def keys_of(each: Recommendation) -> Mapping[str, Any]:
    """What model-config.yaml should say, for a recommendation that has a setting."""
    if each.measured is None:
        raise ValueError(f"no setting keeps to {each.goal.title}")
    return each.measured.setting.keys(each.measured.max_batch_delay_ms)


def notes(tuning: Tuning) -> list[str]:
    """What a reader must know before believing the rest."""
    found = [*tuning.about, *_missed(tuning)]
    measured = tuning.measured
    if tuning.noisy:
        found.append(
            f"the machine was too restless to trust this: batches that were the same took "
            f"{tuning.noise:.0%} more or less (below {NOISY:.0%} is fine). Stop what else runs on "
            f"it, or give more --seconds"
        )
    if not measured.regroups:
        found.append(
            "what the stages return cannot be cut or joined, so all stages have the same size"
        )
    if tuning.larger:
        found.append(
            f"batches above {measured.largest} take too long to be tried in this time; give more "
            f"--seconds"
        )
    lanes = [each.measured.setting.lanes for each in tuning.recommendations if each.measured]
    more = {
        stage for stage in STAGES if any(each[stage] > tuning.lanes_before[stage] for each in lanes)
    }
    if more:
        found.append(
            f"{' and '.join(stage for stage in STAGES if stage in more)} would run in more threads "
            f"than now; its method must stand that. --max-lanes 1 keeps to one"
        )
    found += [f"requests failed in {setting}: {why}" for setting, why in tuning.failed.items()]
    return found


def _missed(tuning: Tuning) -> list[str]:
    """A note on the predictions that were far from what was measured, if there are any."""
    found = []
    told = [tuning.given, *(each.measured for _, each in blocks(tuning))]
    for figures in dict.fromkeys(each for each in told if each is not None):
        predicted = tuning.predicted[figures.setting]
        pairs = [
            ("requests/s", "{:,.0f}".format, predicted.rate, figures.rate),
            ("p99", ms, predicted.p99_s, figures.p99_s),
            ("memory", mib, predicted.memory_bytes, figures.memory_bytes),
        ]
        missed = [
            f"{what} {shown(before)}, measured {shown(after)}"
            for what, shown, before, after in pairs
            if before and after and abs(before / after - 1) > MISSED
        ]
        if missed:
            found.append(f"{figures.setting}: {'; '.join(missed)}")
    if not found:
        return []
    return [
        f"predictions that were more than {MISSED:.0%} off: {'. '.join(found)}. So a setting that "
        f"was not run may be better than predicted; more --seconds runs more of them"
    ]


def _recommended(tuning: Tuning, goals: str, each: Recommendation) -> str:
    title = f"For {goals}"
    if each.measured is None:
        return f"{title}: no setting that was run keeps to it."
    text = as_yaml(keys_of(each)).rstrip()
    lines = [f"{title}{ALREADY if each.already else ''}:"]
    lines += [f"    {line}" for line in text.splitlines()]
    return "\n".join([*lines, *(f"  {line}" for line in reasons(tuning, each))])


def reasons(tuning: Tuning, each: Recommendation) -> list[str]:
    """What holds this setting up, and what other numbers of workers gave."""
    told = ["" if each.utilization is None else str(each.utilization)]
    told += [about_workers(tuning, each), about_one_model(tuning, each)]
    return list(filter(None, told))


def _cells(title: str, measured: Figures, predicted: Figures) -> list[str]:
    return [
        title,
        f"{measured.rate:,.0f}",
        f"{predicted.rate:,.0f}",
        ms(measured.p50_s),
        ms(measured.p99_s),
        ms(predicted.p99_s),
        mib(measured.memory_bytes),
        mib(predicted.memory_bytes),
    ]


def columns(table: Table) -> str:
    """The table in columns, with numbers to the right."""
    head, rows = table
    first, *others = zip(head, *rows, strict=True)
    columns = [[cell.ljust(max(map(len, first))) for cell in first]]
    columns += [[cell.rjust(max(map(len, each))) for cell in each] for each in others]
    return "\n".join(f"  {'  '.join(cells)}".rstrip() for cells in zip(*columns, strict=True))
