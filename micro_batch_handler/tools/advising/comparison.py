"""Whole batches in turns with TorchServe alone: what a request takes longer there."""

from __future__ import annotations

from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING

from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget

if TYPE_CHECKING:
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.ran import Ran
    from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["compare"]

TURNS_SHARE = 0.25
"""The share of the time at which the turns end."""

LEAST_TURNS = 3
MOST_TURNS = 60

LONGEST = 1 / 40
"""The share of the time that a batch of a turn may take; else it has fewer rows."""


def compare(
    bench: Workbench, runner: HandlerRunner, budget: TimeBudget, rows: int
) -> tuple[int, float]:
    """Run whole batches in turns with TorchServe alone.

    Returns:
        The rows that TorchServe alone can serve at once, which are 1 if the handler fails on more;
        and the seconds that a request takes longer there.

    Raises:
        SettingFails: a sample cannot be answered.
    """
    budget.doing("comparing with TorchServe alone")
    for at in range(0, len(runner.samples), rows):
        _refuse_failures(bench.run(runner.samples[at : at + rows]))
    most = rows
    while True:
        samples = list(islice(cycle(runner.samples), rows))
        first = bench.run(samples, plainly=True)
        if rows == 1 or not (first.failures or first.seconds > LONGEST * budget.seconds):
            break
        most = 1 if first.failures else most
        rows = min(most, rows // 2)
    _refuse_failures(first)
    runner.run(Setting.whole(rows))
    more_s: list[float] = []
    while len(more_s) < LEAST_TURNS or (len(more_s) < MOST_TURNS and budget.lasts(TURNS_SHARE)):
        ours, alone = bench.run(samples), bench.run(samples, plainly=True)
        _refuse_failures(ours)
        more_s.append((alone.seconds - ours.seconds) / rows)
    return most, median(more_s)


def _refuse_failures(ran: Ran) -> None:
    for why in ran.failures.values():
        raise SettingFails(why)
