"""The best few settings, run for real: first what the model likes, then the finalists in turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from micro_batch_handler.tools.tuning.batch import Bench, SettingFails, Visit
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.goals import Figures, Goal
from micro_batch_handler.tools.tuning.search import Expectations, measured_figures
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["Verified", "explore", "settle"]

FEW = 3
"""For each goal, so many of those that look best must have been run before the search ends."""

BATCHES = 2
"""Of a setting in one visit, at least."""

LEAST_VISITS = 4
MOST_ROUNDS = 60
"""To each finalist, in turns, so that what drifts on the machine meets all alike."""

OVERTIME = 1.5
"""By what factor these may take longer, for a setting that becomes the best at the end."""


@dataclass
class Verified:
    """What was run, and what it tells of the rest."""

    expected: Expectations
    visits: dict[Setting, list[Visit]] = field(default_factory=dict)
    failed: dict[Setting, str] = field(default_factory=dict)
    """Settings in which requests failed, and why; they are not chosen."""

    predicted: dict[Setting, Figures] = field(default_factory=dict)
    """What was expected of a setting before it was run."""

    def measured(self) -> list[Figures]:
        """The figures of all settings that were run."""
        load = self.expected.load
        return [measured_figures(setting, ran, load) for setting, ran in self.visits.items()]

    def known(self, settings: Iterable[Setting]) -> list[Figures]:
        """The figures of all but those that failed: measured where they were run, or predicted."""
        unknown = [each for each in settings if not self.was_run(each)]
        return [*self.measured(), *map(self.expected.of, unknown)]

    def was_run(self, setting: Setting) -> bool:
        """Whether a setting was tried."""
        return setting in self.visits or setting in self.failed

    def run(self, bench: Bench, setting: Setting, budget: Budget) -> None:
        """Visit a setting, and learn from it what to expect of others."""
        budget.doing(f"verifying {setting}")
        if not self.was_run(setting):
            self.predicted[setting] = self.expected.of(setting)
        try:
            visit = bench.visit(setting, BATCHES)
        except SettingFails as failure:
            self.failed[setting] = str(failure)
            self.visits.pop(setting, None)
            return
        self.visits.setdefault(setting, []).append(visit)
        self.expected = self.expected.after(self.visits)


def explore(
    bench: Bench,
    verified: Verified,
    settings: Sequence[Setting],
    goals: Sequence[Goal],
    budget: Budget,
    share: float,
) -> None:
    """Run what looks best for each goal, learn from it, until what looks best has been run.

    Then what looks best for each number of workers and for each batch size, for the curve, while
    there is time.
    """
    while budget.lasts(share):
        known = verified.known(settings)
        likely = [each for goal in goals for each in goal.ranked(known)[:FEW]]
        likely += _best_of_each(known, lambda setting: setting.workers)
        likely += _best_of_each(known, lambda setting: setting.batch_size)
        wanted = [each.setting for each in likely if not verified.was_run(each.setting)]
        if not wanted:
            return
        verified.run(bench, wanted[0], budget)


def settle(
    bench: Bench,
    verified: Verified,
    goals: Sequence[Goal],
    always: Sequence[Setting],
    budget: Budget,
) -> None:
    """Run in turns those that are best for some goal, and these, until the budget is used.

    Who is best may change meanwhile, and then it is the others' turn; nobody is left that was
    hardly run.
    """
    for _ in range(MOST_ROUNDS):
        finalists = dict.fromkeys(always)
        for goal in goals:
            best = goal.best(verified.measured())
            if best is not None:
                finalists[best.setting] = None
        turns = [setting for setting in finalists if setting not in verified.failed]
        settled = all(len(verified.visits.get(setting, ())) >= LEAST_VISITS for setting in turns)
        if not budget.lasts(1 if settled else OVERTIME):
            return
        for setting in turns:
            verified.run(bench, setting, budget)


def _best_of_each(figures: Sequence[Figures], kind: Callable[[Setting], int]) -> list[Figures]:
    best: dict[int, Figures] = {}
    for each in figures:
        count = kind(each.setting)
        if count not in best or each.rate > best[count].rate:
            best[count] = each
    return list(best.values())
