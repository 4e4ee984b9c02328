"""One case: a warm-up of the planner, then all plans in turns."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import mean, median

from benchmarks.plans.cases import Case
from micro_batch_handler.config import STAGES, MicroBatchingConfig
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner

__all__ = ["Result", "play"]

QUARTERS = 4


@dataclass
class Result:
    """What the batches of one case took."""

    case: Case
    auto: str
    """The planner's own words for its plan."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ms(self, plan: str) -> float:
        """The median of a plan's batches."""
        return median(self.seconds[plan]) * 1000

    @property
    def best(self) -> str:
        """The plan that was fastest, of those that were tried but for `auto`."""
        return min((name for name in self.seconds if name != "auto"), key=self.ms)

    @property
    def against_best(self) -> float:
        """`auto`, where 1 is as fast as the best."""
        return self.ms("auto") / self.ms(self.best)

    @property
    def against_whole(self) -> float:
        """The mean of `auto`, trials included, where 1 is as fast as not splitting."""
        return mean(self.seconds["auto"]) / mean(self.seconds["whole"])

    def figures(self) -> dict[str, object]:
        """For the file."""
        return {
            "rows": self.case.rows,
            "lanes": vars(self.case.lanes),
            "fixed_ms": [round(1000 * each, 3) for each in self.case.fixed_s],
            "row_ms": [round(1000 * each, 4) for each in self.case.row_s],
            "locked": self.case.locked,
            "planner": self.auto,
            "median_ms": {name: round(self.ms(name), 2) for name in self.seconds},
            "best": self.best,
            "auto_against_best": round(self.against_best, 3),
            "auto_against_whole": round(self.against_whole, 3),
        }


def play(case: Case, warm_up: int, rounds: int) -> Result:
    """Measure one case.

    Args:
        case: the stages.
        warm_up: batches before anything counts.
        rounds: in each, every plan runs a batch, beginning with another one each time.
    """
    planner = Planner(MicroBatchingConfig(), case.rows, case.lanes, regroups=True)
    data = list(range(case.rows))
    with Pipeline(case.functions(planner), case.lanes) as pipeline:

        def run_s(plan: Plan) -> float:
            began_s = time.perf_counter()
            pipeline.run(data, plan)
            return time.perf_counter() - began_s

        def auto_s() -> float:
            plan = planner.plan(case.rows)
            seconds = run_s(plan)
            planner.finished(case.rows, plan, seconds)
            return seconds

        for _ in range(warm_up):
            auto_s()
        plans = {
            "whole": Plan.of(case.rows),
            "quarters": Plan.of(-(-case.rows // QUARTERS)),
            **{_name(plan): plan for plan in case.best_plans()},
        }
        names = ["auto", *plans]
        result = Result(case, repr(planner), {name: [] for name in names})
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                result.seconds[name].append(auto_s() if name == "auto" else run_s(plans[name]))
    return result


def _name(plan: Plan) -> str:
    return "/".join(str(plan.size(stage)) for stage in STAGES)
