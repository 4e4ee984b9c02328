"""From a handler's bench to recommendations: measured, modelled, searched, verified.

measure    each stage alone            a third of the time
model      what a batch would take     in any setting
explore    the best few, run for real, each of which corrects the model
settle     the finalists in turns      until the time is over
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage, Threads
from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.tools.tuning.batch import Bench
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.goals import Figures, Goal, frontier
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.measured import Measured
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.outlook import outlook
from micro_batch_handler.tools.tuning.result import Recommendation, Tuning
from micro_batch_handler.tools.tuning.search import Expectations, candidates, threads_to_try
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.verify import Verified, explore, settle

__all__ = ["Space", "tune"]

MEASURED, EXPLORED = 0.35, 0.65
"""Of all time, when measuring stages ends and when trying settings does."""

ALREADY = 0.03
"""What must be gained, for the setting that there is to be changed; more where there is noise."""


@dataclass(frozen=True)
class Space:
    """What may be chosen from.

    Args:
        config: has what stays as it is: `allowed_sizes`.
        batch_sizes: ascending.
        most_lanes: of each stage.
        cores: that all workers may use.
        workers: ascending.
    """

    config: MicroBatchingConfig
    batch_sizes: Sequence[int]
    most_lanes: PerStage[int]
    cores: int
    workers: Sequence[int] = (1,)

    @property
    def threads(self) -> list[PerStage[Threads]]:
        """That calls may have inside, in any number of workers."""
        return [each for count in self.workers for each in threads_to_try(count, self.cores)]

    def choices(self, *, together: bool = False) -> SizeOptions:
        """The sizes of micro-batches; for all stages the same if they must be."""
        return SizeOptions(replace(self.config, micro_batch_size=PerStage.of(AUTO)), together)


def tune(
    bench: Bench,
    given: Setting,
    space: Space,
    goals: Sequence[Goal],
    budget: Budget,
    load: Load | None = None,
) -> Tuning:
    """Find the best setting for each goal.

    Args:
        bench: runs the batches.
        given: the setting that there is, to be compared with.
        space: what may be chosen from.
        goals: what is wanted.
        budget: of time.
        load: what the server around the worker costs.

    Raises:
        SettingFails: not even one request can be answered.
    """
    load = load or Load()
    measured = measure(
        *(bench, space.choices(), space.batch_sizes, space.most_lanes, budget, MEASURED),
        threads=space.threads,
        cores=space.cores,
    )
    sizes = [size for size in space.batch_sizes if size <= measured.largest]
    choices = space.choices(together=not measured.regroups)
    model = BatchModel.of(measured, choices, space.cores)
    found = [
        setting
        for setting in candidates(model, sizes, measured.most_lanes, space.workers)
        if load.fills(setting.batch_size, setting.workers)
    ]
    verified = Verified(Expectations(model, load))
    verified.run(bench, given, budget)
    explore(bench, verified, found, goals, budget, EXPLORED)
    settle(bench, verified, goals, [given], budget)
    larger = len(sizes) < len(space.batch_sizes)
    return _told(verified, measured, given, goals, len(found), larger=larger)


def _told(
    verified: Verified,
    measured: Measured,
    given: Setting,
    goals: Sequence[Goal],
    count: int,
    *,
    larger: bool,
) -> Tuning:
    tried = verified.measured()
    by_setting = {each.setting: each for each in tried}
    now = by_setting.get(given)
    recommendations = [_recommend(goal, verified, tried, now) for goal in goals]
    finalists = [each.measured for each in recommendations if each.measured is not None]
    apart = [each.spread for each in ([*finalists, now] if now is not None else finalists)]
    return Tuning(
        measured,
        verified.expected.model,
        now,
        recommendations,
        tried,
        [verified.predicted[each.setting] for each in tried],
        frontier(tried),
        count,
        larger,
        given.lanes,
        verified.failed,
        noise=max([measured.spread, *apart]),
    )


def _recommend(
    goal: Goal, verified: Verified, tried: Sequence[Figures], now: Figures | None
) -> Recommendation:
    best = goal.best(tried)
    if best is None:
        return Recommendation(goal, None, None, already=False, outlook=None)
    if now is not None and goal.admits(now):
        margin = max(ALREADY, best.spread, now.spread)
        if best.rate < (1 + margin) * now.rate and best.p99_s > (1 - margin) * now.p99_s:
            best = now
    setting = best.setting
    model, load = verified.expected.model, verified.expected.load
    return Recommendation(
        goal,
        best,
        verified.predicted[setting],
        already=best is now,
        outlook=outlook(setting, verified.visits[setting], model, load),
    )
