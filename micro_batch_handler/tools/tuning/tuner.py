"""From a handler's batches to recommendations: measured, modelled, searched, settled.

measure    each stage alone            a third of the time
model      what a batch would take     in any setting
explore    the best few, run for real, each of which corrects what is expected of the others
settle     the finalists in turns      until the time is over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from micro_batch_handler.tools.tuning.load import Figures, Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.result import Goal, Recommendation, Tuning, Utilization
from micro_batch_handler.tools.tuning.search import Search, candidates
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import BatchRunner, TimeBudget

__all__ = ["tune"]

MEASURED, EXPLORED = 0.35, 0.65
"""The shares of the time at which measuring stages ends, and trying settings."""

ALREADY = 0.03
"""What must be gained for the setting in force to be changed; more where there is noise."""


def tune(
    runner: BatchRunner,
    given: Setting,
    space: Space,
    goals: Sequence[Goal],
    budget: TimeBudget,
    load: Load | None = None,
) -> Tuning:
    """Find the best setting for each goal.

    Args:
        runner: runs the batches.
        given: the setting in force, to be compared with.
        space: what may be chosen from.
        goals: what is wanted.
        budget: of time.
        load: what the server around the worker costs.

    Raises:
        SettingFails: not even one request can be answered.
    """
    load = load or Load()
    measured = measure(runner, space, budget, MEASURED)
    sizes = [size for size in space.batch_sizes if size <= measured.largest]
    model = BatchModel(measured, space.size_options(together=not measured.regroups), space.cores)
    narrowed = replace(space, batch_sizes=sizes, most_lanes=measured.most_lanes)
    computed = list(filter(load.fills, candidates(model, narrowed)))
    search = Search(runner, model, load, goals, budget)
    search.run(given)
    search.explore(computed, EXPLORED)
    search.settle(given)
    tried = search.measured()
    now = next((each for each in tried if each.setting == given), None)
    recommendations = [_recommend(goal, search, now, space.cores) for goal in goals]
    finalists = [each.measured for each in recommendations] + [now]
    return Tuning(
        measured,
        now,
        recommendations,
        search.predicted,
        tried,
        search.failed,
        len(computed),
        larger=len(sizes) < len(space.batch_sizes),
        lanes_before=given.lanes,
        noise=max([measured.spread, *(each.spread for each in finalists if each is not None)]),
    )


def _recommend(goal: Goal, search: Search, now: Figures | None, cores: int) -> Recommendation:
    best = goal.best(search.measured())
    if best is None:
        return Recommendation(goal)
    if now is not None and goal.admits(now):
        margin = max(ALREADY, best.spread, now.spread)
        if best.rate < (1 + margin) * now.rate and best.p99_s > (1 - margin) * now.p99_s:
            best = now
    setting = best.setting
    utilization = Utilization.of(setting, search.trials[setting], search.load, cores)
    return Recommendation(goal, best, best is now, utilization)
