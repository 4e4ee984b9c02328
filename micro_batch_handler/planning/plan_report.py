"""A plan in words: its sizes, what batches take with it, and the calls that this is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable

from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.constants import LOG_EVERY_S
from micro_batch_handler.planning.cost_model import CostModel
from micro_batch_handler.planning.plan import Plan

__all__ = ["PlanLog", "plan_in_words"]

logger = logging.getLogger(__name__)


class PlanLog:
    """One line in the log when the plan of the usual batch has changed, and not often."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._logged: Plan | None = None
        self._logged_s = -LOG_EVERY_S

    def tell(
        self, rows: int, plan: Plan, whole: Plan, seconds: dict[Plan, float], model: CostModel
    ) -> None:
        """Log the plan in force for batches of so many rows, if it is a new one.

        Args:
            rows: of the batch.
            plan: in force.
            whole: that cuts as little as possible.
            seconds: that a batch takes with each of the two, as far as known.
            model: what calls cost.
        """
        if self._logged is not None and plan.is_like(self._logged, rows):
            return
        now_s = self._now_s()
        if now_s < self._logged_s + LOG_EVERY_S:
            return
        self._logged, self._logged_s = plan, now_s
        words = [plan_in_words(rows, plan, whole, seconds)]
        for title, each in [("Whole", whole), *([("Split", plan)] if plan != whole else [])]:
            if each in seconds:
                words.append(f"{title}, {_calls_in_words(rows, each, seconds[each], model)}")
        logger.info("micro-batching %d requests as %s", rows, ". ".join(words))


def plan_in_words(rows: int, plan: Plan, whole: Plan, seconds: dict[Plan, float]) -> str:
    """Sizes and times of a batch; for the arguments see `PlanLog.tell`."""
    sizes = zip(STAGES, plan, strict=True)
    words = ", ".join(f"{stage} {min(size, rows)}" for stage, size in sizes)
    if plan not in seconds or whole not in seconds:
        return f"{words}: nothing is known yet"
    if plan == whole:
        return f"{words}: no split is faster than {_ms(seconds[whole])} ms"
    return f"{words}: {_ms(seconds[plan])} ms instead of {_ms(seconds[whole])} ms whole"


def _calls_in_words(rows: int, plan: Plan, batch_s: float, model: CostModel) -> str:
    """What the time of a batch is made of: calls, their schedule, and the factor that is left."""
    forecast = model.forecast(rows, plan.lanes)
    calls_s = model.batch_s(plan, forecast)
    if plan.fits(rows):
        ends = f"{' + '.join(map(_ms, model.inline_s(rows)))} = {_ms(calls_s)} ms"
    else:
        calls = ", ".join(_count(*forecast.calls(at, size)) for at, size in enumerate(plan))
        lanes = ", ".join(map(str, forecast.lanes))
        ends = (
            f"{calls} ms, {_ms(forecast.hand_over_s)} ms of each to hand it over, end after "
            f"{_ms(calls_s)} ms in {lanes} lanes"
        )
    return f"calls of {ends}; batches take {batch_s / calls_s:.2f} times that"


def _count(count: int, full_s: float, last_s: float) -> str:
    if count == 1 or full_s == last_s:
        return f"{count} x {_ms(full_s)}"
    return f"{count - 1} x {_ms(full_s)} + {_ms(last_s)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"
