"""How large the micro-batches of each stage are, and how many lanes take them, for a batch of n.

`plan(n)` gives the plan in force for about n requests, or a candidate in turns with it. `observe`
and `finished` take what calls and batches took: from calls the cost model is learned, which
proposes candidates; from batches, which plan is faster. Both have a budget of time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage, Stage
from micro_batch_handler.planning.candidates import Candidates
from micro_batch_handler.planning.comparison import Comparison
from micro_batch_handler.planning.constants import (
    EARLY_BATCHES,
    EARLY_SHARE,
    HAND_OVER_S,
    LEARN_EVERY,
    LOG_FROM_BATCH,
    MOST_SEARCH_S,
    SHARE,
)
from micro_batch_handler.planning.cost_model import Observations
from micro_batch_handler.planning.lane_choice import lane_choices
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.plan_report import PlanLog, plan_in_words
from micro_batch_handler.planning.sizes import SizeOptions

__all__ = ["Planner"]

logger = logging.getLogger(__name__)


class Planner:
    """Plans batches, and learns from each. Every method may be called from any thread.

    Args:
        config: the user's sizes and lanes, which are never changed, and the sizes allowed.
        batch_size: the most requests of one batch (TorchServe's `batchSize`), at least 1.
        lanes: that there are of each stage.
        hand_over_s: what a micro-batch costs in each stage beside the call.
        regroups: whether payloads are known to be rows. If not, the stages whose size is free get
            the same size until `payloads` is called.
        now_s: the time, by which learning, searching and the log are bounded.
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
        self._config = config
        self._batch_size = batch_size
        self._now_s = now_s
        self.tunes = any(config.micro_batch_size[stage] == AUTO for stage in STAGES)
        """Whether there is a size to choose, and so anything to learn."""
        self._kept_together = False
        self._candidates = Candidates(
            SizeOptions(config, together=not regroups), lane_choices(config, lanes)
        )
        self._observations = Observations(
            tuple(lanes[stage] for stage in STAGES), self._candidates.options.padded, hand_over_s
        )
        self._lock = threading.Lock()
        self._comparisons: dict[int, Comparison] = {}
        self._seen: Counter[int] = Counter()
        self._ended = 0
        self._loss_budget_s = 0.0
        self._search_budget_s = MOST_SEARCH_S
        self._log = PlanLog(now_s)

    def plan(self, rows: int) -> Plan:
        """The sizes and lanes for a batch of so many rows."""
        self._observations.forget_calls()  # those that a batch with failures has left
        with self._lock:
            if not rows or not self._candidates.options.free:
                return self._candidates.options.whole(rows)
            comparison = self._comparison(rows)
            if comparison.is_open and self._candidates.model and self._search_budget_s > 0:
                with self._timed():
                    comparison.start(self._candidates.best(comparison, self._loss_budget_s))
            return self._candidates.adapted(comparison.turn(), rows)

    def observe(self, stage: Stage, rows: int, seconds: float) -> None:
        """A call of a stage on so many rows succeeded and took so long."""
        self._observations.observe(stage, rows, seconds)

    def finished(self, rows: int, plan: Plan, seconds: float) -> None:
        """A batch without failures took so long, from its cut to its last outcome."""
        if not rows or seconds <= 0 or not self.tunes:
            return
        with self._lock:
            self._ended += 1
            self._seen[rows] += 1
            self._observations.batch_ended(None if plan.fits(rows) else plan.lanes)
            self._compare(rows, plan, seconds)
            self._search_budget_s = min(self._search_budget_s + SHARE * seconds, MOST_SEARCH_S)
            if self._ended <= EARLY_BATCHES or self._ended % LEARN_EVERY == 0:
                self._learn()
                self._tell(rows)

    def payloads(self, rows: bool) -> None:
        """Whether what the stages return is known to be rows, which can be cut and joined."""
        with self._lock:
            if rows and self._candidates.options.together and not self._kept_together:
                self._regroup(True)

    def keep_together(self) -> None:
        """What a stage returned could not be cut or joined: never plan that again."""
        with self._lock:
            self._kept_together = True
            if not self._candidates.options.together:
                logger.warning("micro-batching stages alike, since payloads cannot be regrouped")
                self._regroup(False)
                self._comparisons.clear()

    def __repr__(self) -> str:
        with self._lock:
            rows = self._usual()
            words = plan_in_words(rows, *self._in_force(rows)) if self._seen else "unplanned"
            costs = self._candidates.model or "as yet unknown"
        return f"<Planner {rows} requests: {words}; a call costs {costs}>"

    def _regroup(self, allowed: bool) -> None:
        options = SizeOptions(self._config, together=not allowed)
        self._candidates = self._candidates.following(options, self._candidates.model)

    def _usual(self) -> int:
        """The number of rows that most batches have."""
        return max(self._seen, key=lambda rows: (self._seen[rows], rows), default=self._batch_size)

    def _comparison(self, rows: int) -> Comparison:
        """That of batches of about so many rows, up to the next power of two."""
        about = (rows - 1).bit_length()
        if about not in self._comparisons:
            most = min(1 << about, max(rows, self._batch_size))
            whole = self._candidates.options.whole(most)
            self._comparisons[about] = Comparison(most, whole)
        return self._comparisons[about]

    def _in_force(self, rows: int) -> tuple[Plan, Plan, dict[Plan, float]]:
        """The plan in force, the whole batch, and what a batch takes with each, if known."""
        comparison, adapted = self._comparison(rows), self._candidates.adapted
        seconds = {}
        for plan in (comparison.in_force, comparison.whole):
            known_s = comparison.seconds(plan)
            scale = self._candidates.scale(plan, comparison.rows, rows)
            if known_s is not None and scale is not None:
                seconds[adapted(plan, rows)] = known_s * scale
        return adapted(comparison.in_force, rows), adapted(comparison.whole, rows), seconds

    def _compare(self, rows: int, plan: Plan, seconds: float) -> None:
        """Tell the comparison what a batch took, if it ran with one of its plans."""
        comparison = self._comparison(rows)
        plans = dict.fromkeys([comparison.in_force, comparison.candidate, comparison.whole])
        ran = [each for each in plans if each and self._candidates.adapted(each, rows) == plan]
        if len(ran) == 1:
            scale = self._candidates.scale(ran[0], rows, comparison.rows)
            if scale is not None:
                lost_s = comparison.add(ran[0], seconds * scale) / scale
                share = EARLY_SHARE if self._ended <= EARLY_BATCHES else SHARE
                self._loss_budget_s += share * seconds - lost_s

    def _learn(self) -> None:
        """Replace the cost model if calls have become noticeably slower or faster."""
        if self._search_budget_s <= 0:
            return
        with self._timed():
            model, known = self._observations.model(), self._candidates.model
            counts = sorted({-(-self._batch_size // 8), self._batch_size})
            if model and (known is None or model.differs(known, counts)):
                self._candidates = self._candidates.following(self._candidates.options, model)

    def _tell(self, rows: int) -> None:
        model = self._candidates.model
        if model and self._ended >= LOG_FROM_BATCH and rows == self._usual():
            self._log.tell(rows, *self._in_force(rows), model)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What is done inside is charged to the budget of searching."""
        began_s = self._now_s()
        yield
        self._search_budget_s -= self._now_s() - began_s
