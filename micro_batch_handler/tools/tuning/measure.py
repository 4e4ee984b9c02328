"""Each stage alone: what its calls take for many sizes, and when several of its lanes call at once.

No stage is called by itself: batches run through the real pipeline, in plans that keep the stages
apart. Where a stage wants the whole batch, it waits until the stage before has done all of it.

    unsplit           n / n / n   one call of each stage, in the caller's thread; with other
                                  numbers of PyTorch's threads, too
    in a lane         k / n / k   calls on k rows: of preprocess, and later of postprocess
                      n / k / n   of inference
    with neighbours   the same in several lanes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from micro_batch_handler.config import STAGES, PerStage, Threads
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import INFERENCE, SizeOptions
from micro_batch_handler.tools.tuning.batch import Bench, SettingFails
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.measured import Measured, Notes
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting

__all__ = ["measure"]

CALLS_A_LANE = 2
"""Calls that each lane makes in a measured batch, so that most have neighbours all along."""

LONGEST = 1 / 60
"""Of all time, what one batch may take; larger ones are not looked at."""

MOST_ROUNDS = 15

OVERTIME = 1.5
"""By what factor the first round may take longer than its time, which it needs if the machine has
become slower since the batches were chosen; then the rest of it is left out."""

OTHERS = [stage for stage in STAGES if stage != STAGES[INFERENCE]]


def measure(
    bench: Bench,
    choices: SizeOptions,
    batch_sizes: Sequence[int],
    most_lanes: PerStage[int],
    budget: Budget,
    share: float,
    threads: Iterable[PerStage[Threads]] = (),
    cores: int = 1,
) -> Measured:
    """Measure in rounds until the share of the budget is used.

    Args:
        bench: runs the batches.
        choices: the sizes that there are.
        batch_sizes: to try, ascending; those that take too long for the budget are left out.
        most_lanes: to try, for each stage.
        budget: of time.
        share: of it, at which to stop.
        threads: inside calls, to try.
        cores: that the process may use.

    Raises:
        SettingFails: not even one request can be answered.
    """
    notes = Notes(choices.padded, most_lanes, cores)
    every = [Setting(rows, choices.whole(rows)) for rows in batch_sizes]
    wholes = _unsplit(bench, notes, every, budget)
    # Inference may not take a whole batch at once, if `allowed_sizes` end below it.
    sizes = [setting.batch_size for setting in wholes if not setting.splits]
    probes = [
        *_probes_of_threads(sizes[-1], threads, cores),
        *_probes(sizes, choices),
        *_probes_with_neighbours(sizes[-1], most_lanes),
    ]
    rounds = 0
    while rounds == 0 or (budget.lasts(share) and rounds < MOST_ROUNDS):
        if rounds:
            _unsplit(bench, notes, wholes, budget)
        for setting in probes:
            if (setting.splits and not notes.regroups) or not budget.lasts(
                share if rounds else OVERTIME * share
            ):
                break
            if any(setting.lanes[stage] > notes.most_lanes[stage] for stage in STAGES):
                continue
            budget.doing(f"measuring {setting}")
            try:
                notes.add(setting, bench.visit(setting))
            except SettingFails as failure:
                notes.failed(setting, failure)
        rounds += 1
    return notes.measured(wholes[-1].batch_size, rounds)


def _unsplit(
    bench: Bench, notes: Notes, settings: Sequence[Setting], budget: Budget
) -> Sequence[Setting]:
    """Measure batches that are not cut; those that do not take too long, and the first."""
    for at, setting in enumerate(settings):
        budget.doing(f"measuring {setting}")
        visit = bench.visit(setting)
        least_s = min(batch.seconds for batch in visit.batches)
        if at and least_s > LONGEST * budget.seconds and not notes.knows(setting):
            return settings[:at]
        notes.add(setting, visit)
    return settings


def _probes_of_threads(
    rows: int, threads: Iterable[PerStage[Threads]], cores: int
) -> Iterable[Setting]:
    """Unsplit batches with other threads inside calls than `auto` gives."""
    usual = Setting.whole(rows)
    others = [Setting.whole(rows, threads=each) for each in threads]
    apart = {each.in_calls(cores): each for each in others}
    apart.pop(usual.in_calls(cores), None)
    return apart.values()


def _probes(sizes: Sequence[int], choices: SizeOptions) -> Iterable[Setting]:
    """Calls of each size below the largest, two or more in a batch."""
    for size in sizes[:-1]:
        rows = min(sizes[-1], CALLS_A_LANE * size)
        yield Setting(rows, Plan(size, choices.padded(rows), size))
        if choices.padded(size) < rows:
            yield Setting(rows, Plan(rows, choices.padded(size), rows))


def _probes_with_neighbours(rows: int, most_lanes: PerStage[int]) -> Iterable[Setting]:
    """Several lanes, in calls of a size that keeps all of them busy; as far as the rows do."""
    most = max(most_lanes[stage] for stage in OTHERS)
    for lanes in range(2, min(most, rows) + 1):
        size = max(1, rows // (CALLS_A_LANE * lanes))
        counts = {stage: min(lanes, most_lanes[stage]) for stage in OTHERS}
        yield Setting(rows, Plan(size, rows, size), replace(ONE_LANE, **counts))
    for lanes in range(2, min(most_lanes.inference, rows) + 1):
        size = max(1, rows // (CALLS_A_LANE * lanes))
        yield Setting(rows, Plan(rows, size, rows), replace(ONE_LANE, inference=lanes))
