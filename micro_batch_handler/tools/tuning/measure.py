"""Each stage measured alone: calls of many sizes, and with several lanes that call at once.

No stage is called by itself: batches run through the real pipeline, in plans that keep the stages
apart. A stage that takes the whole batch waits until the stage before has done all of it.

    whole             n / n / n   one call of each stage, in the caller's thread; also with other
                                  numbers of PyTorch's threads
    in a lane         k / n / k   calls on k rows: of preprocess, and later of postprocess
                      n / k / n   of inference
    with neighbours   the same in several lanes
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import INFERENCE, SizeOptions
from micro_batch_handler.tools.tuning.measurements import Collector, Measurements
from micro_batch_handler.tools.tuning.setting import ONE_LANE, Setting, Space
from micro_batch_handler.tools.tuning.trials import BatchRunner, SettingFails, TimeBudget

__all__ = ["measure"]

CALLS_A_LANE = 2
"""Calls that each lane makes in a measured batch, so that most have neighbours all along."""

LONGEST = 1 / 60
"""The share of the time that one batch may take; larger batches are left out."""

MOST_ROUNDS = 15

OVERTIME = 1.5
"""By what factor the first round may exceed its time. It needs more if the machine has become
slower since the batches were chosen; what is left of the round is then left out."""

OTHERS = [stage for stage in STAGES if stage != STAGES[INFERENCE]]


def measure(runner: BatchRunner, space: Space, budget: TimeBudget, share: float) -> Measurements:
    """Measure in rounds until the share of the budget is used.

    Args:
        runner: runs the batches.
        space: the sizes, lanes and threads to try. Batch sizes that take too long for the budget
            are left out.
        budget: of time.
        share: of it, at which to stop.

    Raises:
        SettingFails: not even one request can be answered.
    """
    options = space.size_options()
    found = Collector(options.padded, space.most_lanes, space.cores)
    every = [Setting(rows, options.whole(rows), shares=space.given) for rows in space.batch_sizes]
    wholes = _measure_whole(runner, found, every, budget)
    # Inference may not take a whole batch at once, if `allowed_sizes` end below it.
    sizes = [setting.batch_size for setting in wholes if not setting.splits]
    probes = [
        replace(each, shares=space.given)
        for each in (
            *_with_threads(sizes[-1], space),
            *_in_a_lane(sizes, options),
            *_with_neighbours(sizes[-1], space.most_lanes),
        )
    ]
    rounds = 0
    while rounds == 0 or (budget.lasts(share) and rounds < MOST_ROUNDS):
        if rounds:
            _measure_whole(runner, found, wholes, budget)
        for setting in probes:
            if (setting.splits and not found.regroups) or not budget.lasts(
                share if rounds else OVERTIME * share
            ):
                break
            if any(setting.lanes[stage] > found.most_lanes[stage] for stage in STAGES):
                continue
            budget.doing(f"measuring {setting}")
            try:
                found.add(setting, runner.run(setting))
            except SettingFails as failure:
                found.failed(setting, failure)
        rounds += 1
    return found.measurements(wholes[-1].batch_size, rounds)


def _measure_whole(
    runner: BatchRunner, found: Collector, settings: Sequence[Setting], budget: TimeBudget
) -> Sequence[Setting]:
    """Measure whole batches; gives the settings before the first whose batches take too long."""
    for at, setting in enumerate(settings):
        budget.doing(f"measuring {setting}")
        trial = runner.run(setting)
        least_s = min(batch.seconds for batch in trial.batches)
        if at and least_s > LONGEST * budget.seconds and not found.knows(setting):
            return settings[:at]
        found.add(setting, trial)
    return settings


def _with_threads(rows: int, space: Space) -> Iterable[Setting]:
    """Whole batches with other numbers of threads inside calls than `auto` gives."""
    usual = Setting.whole(rows)
    others = [replace(usual, threads=each) for each in space.threads]
    apart = {each.threads_in_calls(space.cores): each for each in others}
    apart.pop(usual.threads_in_calls(space.cores), None)
    return apart.values()


def _in_a_lane(sizes: Sequence[int], options: SizeOptions) -> Iterable[Setting]:
    """Calls of each size below the largest, two or more in a batch."""
    for size in sizes[:-1]:
        rows = min(sizes[-1], CALLS_A_LANE * size)
        yield Setting(rows, Plan(size, options.padded(rows), size))
        if options.padded(size) < rows:
            yield Setting(rows, Plan(rows, options.padded(size), rows))


def _with_neighbours(rows: int, most_lanes: PerStage[int]) -> Iterable[Setting]:
    """Several lanes, in calls of a size that keeps all of them busy, if there are rows enough."""
    for crowded in (OTHERS, [STAGES[INFERENCE]]):
        most = max(most_lanes[stage] for stage in crowded)
        for lanes in range(2, min(most, rows) + 1):
            size = max(1, rows // (CALLS_A_LANE * lanes))
            plan = Plan(*(size if stage in crowded else rows for stage in STAGES))
            counts = {stage: min(lanes, most_lanes[stage]) for stage in crowded}
            yield Setting(rows, plan, replace(ONE_LANE, **counts))
