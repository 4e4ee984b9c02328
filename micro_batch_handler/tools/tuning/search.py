"""The search for the best settings: those that look best are run, and correct what is expected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from micro_batch_handler.tools.tuning.load import Figures, Load
from micro_batch_handler.tools.tuning.model import BatchModel, Corrections
from micro_batch_handler.tools.tuning.result import Goal
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import BatchRunner, SettingFails, TimeBudget, Trial

__all__ = ["Search", "candidates"]

FEW = 3
"""Of the settings that look best for a goal, so many must have been run before exploring ends."""

BATCHES = 2
"""At least so many batches make a trial."""

LEAST_TRIALS = 4
MOST_ROUNDS = 60
"""Trials of each finalist. They take turns, so that a drift of the machine affects all alike."""

OVERTIME = 1.5
"""By what factor settling may exceed the time, for a setting that becomes the best at the end."""


@dataclass
class Search:
    """Runs settings, and learns from each what to expect of the others."""

    runner: BatchRunner
    model: BatchModel
    """What batches take, from the measured stages."""
    load: Load
    """What that means for clients."""
    goals: Sequence[Goal]
    budget: TimeBudget
    trials: dict[Setting, list[Trial]] = field(default_factory=dict)
    failed: dict[Setting, str] = field(default_factory=dict)
    """Settings in which requests failed, and why; they are not chosen."""
    predicted: dict[Setting, Figures] = field(default_factory=dict)
    """What was expected of a setting before it was run."""

    def __post_init__(self) -> None:
        self._corrections = Corrections(self.model, {})
        self._tail = 1.0
        """By what factor the p99 is longer than if all batches took the same."""

    def measured(self) -> list[Figures]:
        """The figures of all settings that were run."""
        return [self.load.measured(setting, ran) for setting, ran in self.trials.items()]

    def expected(self, setting: Setting) -> Figures:
        """The figures of one setting, by the model and what the trials corrected."""
        batch_s = self.model.batch_s(setting) * self._corrections.of(setting)
        memory_bytes = self.model.memory_bytes(setting)
        return self.load.predicted(setting, batch_s, memory_bytes, self._tail)

    def known(self, settings: Iterable[Setting]) -> list[Figures]:
        """The figures of all but those that failed: measured where they were run, or expected."""
        unknown = [each for each in settings if not self._was_run(each)]
        return [*self.measured(), *map(self.expected, unknown)]

    def run(self, setting: Setting) -> None:
        """Run a trial of a setting, and learn from it what to expect of others."""
        self.budget.doing(f"verifying {setting}")
        if not self._was_run(setting):
            self.predicted[setting] = self.expected(setting)
        try:
            trial = self.runner.run(setting, BATCHES)
        except SettingFails as failure:
            self.failed[setting] = str(failure)
            self.trials.pop(setting, None)
            return
        self.trials.setdefault(setting, []).append(trial)
        self._learn()

    def explore(self, settings: Sequence[Setting], share: float) -> None:
        """Run what looks best, until the few that look best for each goal have been run.

        First what looks best of workers with a model each, and of those around one model, however
        much of the share is used. Last what looks best for each number of workers and for each
        batch size, for the curve, until the share of the budget is used.
        """
        for each in _fastest_of_each(self.known(settings), _shares):
            tried = any(_shares(ran) == _shares(each.setting) for ran in self.trials)
            if not tried and self.budget.lasts(1.0):
                self.run(each.setting)
        while self.budget.lasts(share):
            known = self.known(settings)
            likely = _fastest_of_each(known, _shares)
            likely += [each for goal in self.goals for each in goal.ranked(known)[:FEW]]
            likely += _fastest_of_each(known, lambda each: (_shares(each), each.workers))
            likely += _fastest_of_each(known, lambda setting: setting.batch_size)
            wanted = [each.setting for each in likely if not self._was_run(each.setting)]
            if not wanted:
                return
            self.run(wanted[0])

    def settle(self, given: Setting) -> None:
        """Run the setting in force and the best for each goal in turns, until the time is used.

        Another setting may become the best meanwhile, and then takes turns as well: none is left
        that was hardly run.
        """
        for _ in range(MOST_ROUNDS):
            measured = self.measured()
            best = [goal.best(measured) for goal in self.goals]
            finalists = dict.fromkeys([given, *(each.setting for each in best if each is not None)])
            turns = [setting for setting in finalists if setting not in self.failed]
            settled = all(len(self.trials.get(each, ())) >= LEAST_TRIALS for each in turns)
            if not self.budget.lasts(1 if settled else OVERTIME):
                return
            for setting in turns:
                self.run(setting)

    def _was_run(self, setting: Setting) -> bool:
        return setting in self.trials or setting in self.failed

    def _learn(self) -> None:
        measured = self.measured()
        self._corrections = Corrections(
            self.model, {each.setting: each.batch_s for each in measured}
        )
        alike = [self.load.predicted(each.setting, each.batch_s, 0.0) for each in measured]
        tails = [own.p99_s / even.p99_s for own, even in zip(measured, alike, strict=True)]
        self._tail = median(tails)


def candidates(model: BatchModel, space: Space) -> list[Setting]:
    """The settings worth a trial: for each batch size, lanes, threads and workers, the best plans.

    The plans are those that are best with the threads of `auto`, in one worker.
    """
    found = {
        setting: None
        for rows in space.batch_sizes
        for lanes in space.lanes
        for setting in model.proposals(rows, lanes)
    }
    return space.in_workers(found)


def _shares(setting: Setting) -> bool:
    return bool(setting.shares)


def _fastest_of_each(
    figures: Sequence[Figures], kind: Callable[[Setting], object]
) -> list[Figures]:
    fastest: dict[object, Figures] = {}
    for each in figures:
        count = kind(each.setting)
        if count not in fastest or each.rate > fastest[count].rate:
            fastest[count] = each
    return list(fastest.values())
