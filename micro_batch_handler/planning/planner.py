"""How large the micro-batches of each stage are, for a batch of n.

plan(n)             of what is known, the sizes that finish earliest; unsplit unless splitting
                    is faster by more than the prediction may err
observe, finished   what calls and whole batches really took
learned anew        when that has changed noticeably, and then no more often than costs little
trials              now and then a batch runs the other way, or the error would never be seen
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.planning.comparison import Comparison, neighbours
from micro_batch_handler.planning.cost_model import CostModel, Observations
from micro_batch_handler.planning.decision import Decision, decide
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import SizeOptions
from micro_batch_handler.planning.trial_budget import SplitBalance, TrialBudget

__all__ = ["Planner"]

logger = logging.getLogger(__name__)

HAND_OVER_S = 70e-6
"""What a micro-batch costs in each stage beside the call, on a small virtual machine."""

WARM_UP_BATCHES = 3
"""Batches that run unsplit first: what there is to compare with, and the least to learn from."""

FIRST_BUDGET_BATCHES = 4
"""What trials may cost at the start, in unsplit batches."""

SEARCH_SHARE = 0.01
"""Of all time, what learning and searching may take."""

MOST_SEARCH_TIME_S = 0.05
"""What they may take at once, at the start too."""

LEARN_EVERY = 4
"""Batches between two times of learning; at the start, every batch."""

COMMON = 8
"""One batch in so many must be of a size for sizes to contend for it."""

LOG_EVERY_S = 30.0
LOG_FROM_BATCH = 16
SLOWER_WHOLE = 1.1
"""If unsplit batches take so much longer than was thought, splits have lost nothing by that."""

MOST_CALLS = 4096


class Planner:
    """Plans batches, and learns from each. Every method may be called from any thread.

    Args:
        config: the user's sizes, which are never changed, and the sizes allowed.
        batch_size: the most requests of one batch (TorchServe's `batchSize`), at least 1.
        lanes: of each stage.
        hand_over_s: what a micro-batch costs in each stage beside the call.
        regroups: whether all that stages return is known to be made of rows. If not, stages whose
            size is free get the same until `payloads` has told.
        now_s: the time, to bound what learning and searching take, and the log.
    """

    def __init__(
        self,
        config: MicroBatchingConfig,
        batch_size: int,
        lanes: PerStage[int],
        *,
        hand_over_s: float = HAND_OVER_S,
        regroups: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batch_size = batch_size
        self._now_s = now_s
        self._choices = SizeOptions(config, together=not regroups)
        self.tunes = any(config.micro_batch_size[stage] == AUTO for stage in STAGES)
        """Whether there is a size to choose, and so anything to learn."""
        self._kept_together = False
        self._observations = Observations(
            [lanes[stage] for stage in STAGES], hand_over_s, self._choices.padded
        )
        self._calls: dict[Stage, deque[tuple[int, float]]] = {
            stage: deque(maxlen=MOST_CALLS) for stage in STAGES
        }
        self._lock = threading.Lock()
        self._model: CostModel | None = None
        self._version = 0
        self._searched = 0
        self._plans: dict[int, Decision] = {}
        self._begun = 0
        self._ended = 0
        self._search_time_s = MOST_SEARCH_TIME_S
        self._trials = TrialBudget(WARM_UP_BATCHES)
        self._balance = SplitBalance()
        self._comparisons: dict[int, Comparison] = {}
        self._seen: Counter[int] = Counter()
        self._logged: Plan | None = None
        self._looked_at: tuple[int, bool] | None = None
        self._logged_s = -LOG_EVERY_S

    def plan(self, rows: int) -> Plan:
        """The sizes for a batch of so many rows."""
        for calls in self._calls.values():
            calls.clear()  # what a batch with failures has left tells little
        choice = self._plans.get(rows)
        if choice is None or choice.version != self._version:
            choice = self._choose(rows, choice)
        self._begun += 1
        if self._trials.due(self._begun - 1):
            return self._try(rows, choice)
        usual = self._in_force(choice)
        return self._compare(rows, choice) if usual == choice.split else usual

    def observe(self, stage: Stage, rows: int, seconds: float) -> None:
        """A call of a stage on so many rows succeeded and took so long."""
        self._calls[stage].append((rows, seconds))

    def finished(self, rows: int, plan: Plan, seconds: float) -> None:
        """A batch without failures took so long, from its cut to its last outcome."""
        choice = self._plans.get(rows)
        if choice is None or seconds <= 0 or not self.tunes:
            return
        with self._lock:
            self._ended += 1
            self._seen[rows] += 1
            sizes = plan
            split = sizes != choice.whole
            self._observations.add(rows, sizes, seconds, self._taken(), split=split)
            self._account(choice, sizes, seconds)
            comparison = self._comparisons.get(rows)
            if comparison is not None and comparison.ended(self._ended, sizes, seconds):
                self._version += 1
            self._search_time_s = min(
                self._search_time_s + SEARCH_SHARE * seconds, MOST_SEARCH_TIME_S
            )
            early = self._ended <= WARM_UP_BATCHES + 2 * LEARN_EVERY
            if self._search_time_s > 0 and (early or self._ended % LEARN_EVERY == 0):
                began_s = self._now_s()
                self._learn()
                self._search_time_s -= self._now_s() - began_s
        self._log(rows)

    def payloads(self, rows: bool) -> None:
        """Whether what the stages return is known to be rows, which can be cut and joined."""
        with self._lock:
            if rows and self._choices.together and not self._kept_together:
                self._regroup(True)

    def keep_together(self) -> None:
        """What a stage returned could not be cut or joined: never plan that again."""
        with self._lock:
            self._kept_together = True
            if not self._choices.together:
                logger.warning("micro-batching stages alike, since payloads cannot be regrouped")
                self._regroup(False)

    def __repr__(self) -> str:
        rows = self._usual()
        choice = self._plans.get(rows)
        stopped = choice is not None and self._in_force(choice) != choice.plan
        shown = "unplanned" if choice is None else choice.told(rows, stopped=stopped)
        return f"<Planner {rows} requests: {shown}; a call costs {self._model or 'as yet unknown'}>"

    def _regroup(self, allowed: bool) -> None:
        self._choices = SizeOptions(self._choices.config, together=not allowed)
        self._comparisons.clear()  # what has proved best may not be cut any more, or not be best
        self._searched += 1
        self._version += 1

    def _usual(self) -> int:
        """The number of rows that most batches have."""
        return max(self._seen, key=lambda rows: (self._seen[rows], rows), default=self._batch_size)

    def _choose(self, rows: int, before: Decision | None) -> Decision:
        with self._lock:
            if before is not None and self._search_time_s < 0:
                return before
            began_s = self._now_s()
            choice = decide(
                rows,
                self._choices,
                self._model,
                before,
                version=self._version,
                searched=self._searched,
            )
            choice = self._with_incumbent(rows, choice, before)
            self._search_time_s -= self._now_s() - began_s
            self._plans[rows] = choice
            if before is not None and before.splits != choice.splits:
                self._trials.restart(self._begun)
            return choice

    def _try(self, rows: int, choice: Decision) -> Plan:
        """The plan that is not in force, if it is worth a trial now."""
        with self._lock:
            model = self._model
            usual = self._in_force(choice)
            if model is None:
                return usual
            splits = usual != choice.whole
            other = choice.whole if splits else self._split_to_try(rows, choice, model)
            if other is None:
                return usual
            if splits:
                loss_s = choice.whole_s - choice.split_s
            else:
                loss_s = model.batch_s(rows, other, split=True) - choice.whole_s
            return other if self._trials.begin(self._begun - 1, loss_s) else usual

    def _with_incumbent(self, rows: int, choice: Decision, before: Decision | None) -> Decision:
        """The decision about the sizes that have proved to be the best, if any have."""
        comparison = self._comparisons.get(rows)
        if comparison is None:
            if choice.splits and self._seen[rows] * COMMON >= self._ended:
                self._comparisons[rows] = Comparison(choice.plan)
            return choice
        split_s = comparison.incumbent_s(self._ended)
        if split_s is None and self._model is not None:
            split_s = self._model.batch_s(rows, comparison.incumbent, split=True)
        if split_s is None:
            return choice
        found = choice.about(comparison.incumbent, split_s, before)
        if found.splits or choice.proposed in (None, comparison.incumbent):
            return found
        # The best of those that were tried does not pay; what is proposed now may.
        del self._comparisons[rows]
        return choice

    def _compare(self, rows: int, choice: Decision) -> Plan:
        """The best sizes known, or those that challenge them."""
        with self._lock:
            comparison = self._comparisons.get(rows)
            if comparison is None:
                return choice.plan
            if comparison.is_open(self._ended) and self._search_time_s > 0:
                began_s = self._now_s()
                comparison.start(self._candidate(rows, choice, comparison), self._ended)
                self._search_time_s -= self._now_s() - began_s
            return comparison.turn()

    def _candidate(self, rows: int, choice: Decision, comparison: Comparison) -> Plan | None:
        """Who shall challenge the best sizes known, if losing to them can be afforded."""
        if self._model is None:
            return None
        others = neighbours(comparison.incumbent, self._choices.options(rows), self._choices.groups)
        if choice.proposed is not None:
            others.append(choice.proposed)
        others = [sizes for sizes in others if sizes != choice.whole]
        due_s = self._model.forecast(rows).finish_s
        found = comparison.most_promising(others, due_s, self._ended)
        return found[0] if found is not None and self._trials.affords(found[1]) else None

    def _in_force(self, choice: Decision) -> Plan:
        """What was decided, unless splitting has lost."""
        return choice.whole if choice.splits and self._balance.is_negative else choice.plan

    def _split_to_try(self, rows: int, choice: Decision, model: CostModel) -> Plan | None:
        """What to try instead of the whole batch; None if it cannot be cut, or that cannot pay.

        The best known, or halves where it is not known what a row adds to a call: there the model
        takes calls to cost the same for any number of rows, which is the worst that can be.
        """
        if not choice.may_pay:
            return None
        free = self._choices.free
        if choice.split is not None and model.knows_slopes(free):
            return choice.split
        return self._choices.halves(rows)

    def _account(self, choice: Decision, sizes: Plan, seconds: float) -> None:
        """Charge what a batch has lost against what it would have taken the other way."""
        if self._ended == WARM_UP_BATCHES:
            self._trials.allow(FIRST_BUDGET_BATCHES * seconds)
        if not choice.whole_s:
            return
        owed = self._balance.is_negative
        splits = choice.splits and not owed
        tried = sizes != (choice.split if splits else choice.whole)
        usual_s = choice.split_s if splits else choice.whole_s
        self._trials.account(seconds, max(0.0, seconds - usual_s) if tried else 0.0)
        split = sizes != choice.whole
        self._balance.account(seconds, choice.whole_s, split=split and choice.splits)
        if self._balance.is_negative and not owed:
            self._trials.restart(self._begun)

    def _learn(self) -> None:
        model = self._observations.model()
        if model is None or self._ended < WARM_UP_BATCHES:
            return
        known = self._model
        counts = sorted({-(-self._batch_size // 8), self._batch_size})
        searched = known is None or model.costs_differ(known, counts)
        if known is not None and not searched:
            model = self._observations.corrected(known)  # by the same costs as sizes were
            if not model.corrections_differ(known):
                return
        if known is not None and self._whole_s(model) > SLOWER_WHOLE * self._whole_s(known):
            self._balance.reset()
        self._model = model
        self._version += 1
        self._searched += searched

    def _whole_s(self, model: CostModel) -> float:
        """What the usual batch is expected to take unsplit."""
        rows = self._usual()
        return model.batch_s(rows, self._choices.whole(rows), split=False)

    def _taken(self) -> list[list[tuple[int, float]]]:
        taken = [list(calls) for calls in self._calls.values()]
        for calls in self._calls.values():
            calls.clear()
        return taken

    def _log(self, rows: int) -> None:
        """One line when the plan for the usual batch has changed, and not often."""
        state = (self._version, self._balance.is_negative)
        if state == self._looked_at or self._model is None or rows != self._usual():
            return
        choice = self._plans[rows]
        if choice.version != self._version:
            return  # it is planned anew when the next such batch comes
        plan = self._in_force(choice)
        alike = self._logged is not None and plan.is_like(self._logged, rows)
        now_s = self._now_s()
        if not alike and (now_s < self._logged_s + LOG_EVERY_S or self._ended < LOG_FROM_BATCH):
            return
        self._looked_at = state
        if alike:
            return
        self._logged, self._logged_s = plan, now_s
        told = choice.told(rows, stopped=plan != choice.plan)
        explained = choice.explained(rows, self._model)
        logger.info("micro-batching %d requests as %s. %s", rows, told, explained)
