"""The plan that finishes a batch earliest, searched among the sizes that may be chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

from micro_batch_handler.config import STAGES
from micro_batch_handler.planning.constants import FINER, REACH, STARTS, WORK_COUNTS
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import ANY_SIZE, INFERENCE, SizeOptions, at_most

__all__ = ["best", "neighbours"]


def best(forecast: Forecast, options: SizeOptions, least: Plan = ANY_SIZE) -> Plan:
    """The plan that finishes earliest, by coordinate descent from a few good plans.

    The plans to start from cut some of the stages, all to the same size. Then one stage after the
    other gets its best size, until no stage can gain alone.

    Args:
        forecast: tells when a batch would be finished.
        options: the sizes that may be chosen.
        least: the smallest that may be chosen now, for each stage.
    """
    whole = options.whole(forecast.rows)
    free = options.free
    per_stage = options.per_stage(forecast.rows, least)
    worth: dict[Plan, float] = {}

    def cost_s(sizes: Plan) -> float:
        if sizes not in worth:
            work_s = sum(forecast.work_s(at, size) for at, size in enumerate(sizes))
            worth[sizes] = forecast.finish_s(sizes) + WORK_COUNTS * work_s
        return worth[sizes]

    if not free:
        return whole

    def cut(stages: Sequence[int], size: int) -> Plan:
        if options.together:
            return Plan.of(size)
        cut_to = [at_most(size, each) for each in per_stage]
        return Plan(*(cut_to[at] if at in stages else whole[at] for at in range(len(STAGES))))

    starts = {whole}
    for stages in options.groups:
        sizes = per_stage[INFERENCE if INFERENCE in stages else stages[0]]
        starts.add(min((cut(stages, size) for size in sizes), key=cost_s))
    nearest = sorted(starts, key=cost_s)
    if options.together:
        return nearest[0]
    found = [_descend(each, free, per_stage, forecast, cost_s) for each in nearest[:STARTS]]
    least = min(found, key=cost_s)
    for parts in FINER:
        finer = Plan(*map(at_most, [size // parts for size in least], per_stage))
        least = min(least, _descend(finer, free, per_stage, forecast, cost_s), key=cost_s)
    return min(_near(least, free, per_stage, forecast, cost_s), key=cost_s)


def _descend(
    sizes: Plan,
    free: Sequence[int],
    per_stage: Sequence[Sequence[int]],
    forecast: Forecast,
    cost_s: Callable[[Plan], float],
) -> Plan:
    while True:
        before = sizes
        for at in reversed(free):  # a change of the last stage keeps what was computed before it
            for size in per_stage[at]:
                if forecast.at_least_s(at, size) < cost_s(sizes):
                    other = sizes.with_size(at, size)
                    sizes = min(sizes, other, key=cost_s)
        if sizes == before:
            return sizes


def _near(
    sizes: Plan,
    free: Sequence[int],
    per_stage: Sequence[Sequence[int]],
    forecast: Forecast,
    cost_s: Callable[[Plan], float],
) -> Iterator[Plan]:
    """These sizes, and those with two of them a little larger or smaller."""
    yield sizes
    least_s = cost_s(sizes)

    def beside(at: int) -> list[int]:
        place = per_stage[at].index(sizes[at])
        near = per_stage[at][max(0, place - REACH) : place + REACH + 1]
        return [size for size in near if forecast.at_least_s(at, size) < least_s]

    for one, other in combinations(free, 2):
        for size, beside_it in product(beside(one), beside(other)):
            yield sizes.with_size(one, size).with_size(other, beside_it)


def neighbours(plan: Plan, options: SizeOptions, rows: int) -> list[Plan]:
    """The plans with sizes doubled or halved in one or more stages, as far as options allow.

    Their lanes are the same.
    """
    found: list[Plan] = []
    sizes = options.per_stage(rows)
    for stages, change in product(options.groups, (_half, _double)):
        changed = Plan(
            *(change(size, sizes[at]) if at in stages else size for at, size in enumerate(plan)),
            lanes=plan.lanes,
        )
        if changed != plan and changed not in found:
            found.append(changed)
    return found


def _half(size: int, options: Sequence[int]) -> int:
    return next((option for option in options if 2 * option <= size), options[-1])


def _double(size: int, options: Sequence[int]) -> int:
    return next((option for option in reversed(options) if option >= 2 * size), options[0])
