"""What other numbers of workers gave, with a model each and around one model."""

from __future__ import annotations

from collections.abc import Mapping

from micro_batch_handler.tools.tuning.load import Figures
from micro_batch_handler.tools.tuning.result import Recommendation, Tuning
from micro_batch_handler.tools.tuning.units import mib

__all__ = ["about_one_model", "about_workers"]


def about_workers(tuning: Tuning, each: Recommendation) -> str:
    """The best that each number of workers gave within a goal; empty if one number was tried."""
    apart, around = (
        _best_of_each(tuning, each, shares=False),
        _best_of_each(tuning, each, shares=True),
    )
    if len(apart) + len(around) < 2:  # noqa: PLR2004  (one number has nothing to be compared with)
        return ""
    told = []
    if apart:
        told.append(f"The best of each number of workers that was run: {_listed(apart)}.")
    if around:
        told.append(f"Of workers around one model (share_model): {_listed(around)}.")
    return " ".join(told)


def about_one_model(tuning: Tuning, each: Recommendation) -> str:
    """What one copy of the model for all workers costs or saves; empty if it was not compared."""
    bests = [_best_of_each(tuning, each, shares=shares).values() for shares in (True, False)]
    around, apart = (max(best, key=lambda it: it.rate, default=None) for best in bests)
    if around is None or apart is None:
        return ""
    told = [
        f"{abs(change):.0%} {'more' if change > 0 else 'less'} {what}"
        for what, one, other in (
            ("throughput", around.rate, apart.rate),
            ("memory", around.memory_bytes, apart.memory_bytes),
        )
        for change in ([one / other - 1] if one and other else [])
    ]
    return (
        f"One copy of the model for all workers means {' and '.join(told)} than a copy each: the "
        f"best are {around.setting} and {apart.setting}. A device's memory, which has a copy for "
        f"each worker or one for all, is not counted."
    )


def _best_of_each(tuning: Tuning, each: Recommendation, *, shares: bool) -> dict[int, Figures]:
    """The best within a goal of each number of workers, which share the model or do not."""
    best: dict[int, Figures] = {}
    for figures in filter(each.goal.admits, tuning.tried):
        workers = figures.setting.workers
        if bool(figures.setting.shares) == shares and (
            workers not in best or figures.rate > best[workers].rate
        ):
            best[workers] = figures
    return best


def _listed(best: Mapping[int, Figures]) -> str:
    return ", ".join(
        f"{count}: {best[count].rate:,.0f} requests/s, {mib(best[count].memory_bytes)}"
        for count in sorted(best)
    )
