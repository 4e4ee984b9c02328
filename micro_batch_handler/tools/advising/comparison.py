"""Whole batches in turns with TorchServe alone: what a request takes longer there."""

from __future__ import annotations

from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget, spread

if TYPE_CHECKING:
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.ran import Ran
    from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["Alone", "compare"]

TURNS_SHARE = 0.25
"""The share of the time at which the turns end."""

LEAST_TURNS = 3
MOST_TURNS = 60

LONGEST = 1 / 40
"""The share of the time that a batch of a turn may take; else it has fewer rows."""


class Alone(NamedTuple):
    """How TorchServe alone serves the handler."""

    rows: int
    """The most of a call: 1 if the handler fails on more."""
    more_s: float
    """Seconds that a request takes longer than here: JSON, above all."""
    noise: float = 0.0
    """How far the turns lie apart, relative to a batch."""


def compare(
    bench: Workbench, runner: HandlerRunner, budget: TimeBudget, rows: int, options: SizeOptions
) -> Alone:
    """Run batches of so many rows, or fewer, whole and in turns with TorchServe alone.

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
    runner.run(Setting(rows, options.whole(rows)))
    alone_s: list[float] = []
    more_s: list[float] = []
    while len(more_s) < LEAST_TURNS or (len(more_s) < MOST_TURNS and budget.lasts(TURNS_SHARE)):
        ours, alone = bench.run(samples), bench.run(samples, plainly=True)
        _refuse_failures(ours)
        alone_s.append(alone.seconds)
        more_s.append(alone.seconds - ours.seconds)
    usual_s = median(more_s)
    # As if the differences lay around the time of a batch, and not around 0.
    apart = spread([each - usual_s + median(alone_s) for each in more_s])
    return Alone(most, usual_s / rows, apart)


def _refuse_failures(ran: Ran) -> None:
    for why in ran.failures.values():
        raise SettingFails(why)
