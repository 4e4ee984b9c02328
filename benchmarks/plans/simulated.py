"""Many cases in simulated time: stages that contend for cores, calls and batches that vary."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from statistics import fmean, median

from harness.simulated import HAND_OVER_S, Cost, Machine, linear
from micro_batch_handler.config import AUTO, STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.planning.cores import lanes_for
from micro_batch_handler.planning.lane_choice import LaneCounts, lane_choices
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.planner import Planner
from micro_batch_handler.planning.sizes import even_sizes

__all__ = ["Outcome", "play"]

BATCHES = 300
WARM_UP = 80
LAST = 60
"""Batches whose plans count as what was found."""

ROWS = (8, 16, 32, 64, 64, 128)
SIZES = {1, 2, 3, 4, 5, 6, 8, 10, 11, 13, 16, 22, 32, 43, 64, 128}
STARTS = 4
KINDS = 5
MANY_CORES = 16
LOCKED = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
"""The shares of a call in which it holds the lock."""

LOOK_S = 0.001
"""What each look for better plans takes by the clock of the planner."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case, in what its plans would take on a machine that does not vary."""

    to_best: float
    """The plan found, to the best that a search on the machine itself finds."""

    to_whole: float
    """All batches after the warm-up, trials included, to whole ones."""


def play(number: int, *, many_cores: bool = False) -> Outcome:
    """Let a planner learn one case: of `_draw_many_cores`, or else of `_draw`."""
    rows, machine = _draw_many_cores(number) if many_cores else _draw(number)
    quiet = replace(machine, noise=0.0, unrest=0.0, pauses=0.0)
    looks = count()
    planner = Planner(
        MicroBatchingConfig(),
        rows,
        machine.lanes,
        hand_over_s=HAND_OVER_S,
        regroups=True,
        now_s=lambda: next(looks) * LOOK_S,
    )

    @cache
    def true_s(plan: Plan) -> float:
        return quiet.run_s(rows, plan)

    taken_s = []
    for _ in range(BATCHES):
        plan = planner.plan(rows)
        seconds = machine.run_s(rows, plan)
        for stage, size, call_s in machine.calls:
            planner.observe(STAGES[stage], size, call_s)
        planner.finished(rows, plan, seconds)
        taken_s.append(true_s(plan))
    best_s = _best_s(rows, machine.lanes, true_s)
    whole_s = true_s(Plan.of(rows))
    return Outcome(median(taken_s[-LAST:]) / best_s, fmean(taken_s[WARM_UP:]) / whole_s)


def _draw(number: int) -> tuple[int, Machine]:
    """Five kinds in turn: cores plenty; a device beside few; one; decoding beside a device; two."""
    chance = random.Random(f"case{number}")  # noqa: S311  (no secret)
    rows = chance.choice(ROWS)
    fixed, by_row = ([chance.choice([0.0, chance.random()]) for _ in STAGES] for _ in range(2))
    parts = []
    for share, a, b in zip([chance.random() for _ in STAGES], fixed, by_row, strict=True):
        whole = (a + b) or 1
        parts.append((share * a / whole, share * (b if a + b else 1) / whole))
    scale = chance.uniform(0.02, 0.2) / sum(map(sum, parts))
    costs: Sequence[Cost] = [linear(scale * a, scale * b / rows) for a, b in parts]
    lanes = PerStage(chance.randint(1, 4), 1, chance.randint(1, 4))
    noise, unrest = chance.choice([0.02, 0.05, 0.1]), chance.choice([0, 0.05, 0.15])
    cores: float | None = (None, chance.choice([2, 4]), 1, 2, 2)[number % KINDS]
    waiting = (1,) if number % KINDS in {1, 3} else ()
    if number % KINDS == 3:  # noqa: PLR2004  (the fourth kind)
        rows, lanes = 64, PerStage(2, 1, 1)
        launch_s, row_s = chance.choice([0.001, 0.005]), chance.uniform(1e-4, 5e-4)
        decode = linear(1e-4, chance.uniform(0.001, 0.004))
        costs = [decode, linear(launch_s, row_s), linear(1e-4, 2e-5)]
    return rows, Machine(costs, lanes, cores, waiting, noise, unrest, pauses=0.003, seed=number)


def _draw_many_cores(number: int) -> tuple[int, Machine]:
    """16 cores, and calls that hold a lock for some of their time; inference waits for a device."""
    chance = random.Random(f"lock{number}")  # noqa: S311  (no secret)
    rows = chance.choice((32, 64, 128))
    decode = linear(1e-4, chance.uniform(0.0005, 0.01))
    network = linear(chance.choice([0.001, 0.005, 0.01]), chance.uniform(1e-4, 8e-4))
    finish = linear(1e-4, chance.choice([2e-5, chance.uniform(1e-4, 2e-3)]))
    locked = [chance.choice(LOCKED) for _ in STAGES]
    noise, unrest = chance.choice([0.02, 0.05, 0.1]), chance.choice([0, 0.05, 0.15])
    return rows, Machine(
        [decode, network, finish],
        lanes_for(PerStage(AUTO, AUTO, AUTO), MANY_CORES),
        MANY_CORES,
        waiting=(1,),
        locked=locked,
        noise=noise,
        unrest=unrest,
        pauses=0.003,
        seed=number,
    )


def _best_s(rows: int, lanes: PerStage[int], taken_s: Callable[[Plan], float]) -> float:
    """The least, by changing one size or number of lanes at a time from the best few starts."""
    options = [size for size in even_sizes(rows) if size in SIZES or size == rows]
    choices = lane_choices(MicroBatchingConfig(), lanes)
    every = [Plan.of(size).with_lanes(each) for size in options for each in choices]
    starts = sorted(every, key=taken_s)[:STARTS]
    return min(taken_s(_descend(start, options, choices, taken_s)) for start in starts)


def _descend(
    plan: Plan,
    options: Sequence[int],
    choices: Sequence[LaneCounts],
    taken_s: Callable[[Plan], float],
) -> Plan:
    while True:
        before = plan
        for at in range(len(STAGES)):
            plan = min([plan, *(plan.with_size(at, size) for size in options)], key=taken_s)
        plan = min([plan, *map(plan.with_lanes, choices)], key=taken_s)
        if plan == before:
            return plan
