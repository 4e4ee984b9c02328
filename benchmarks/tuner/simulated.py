"""The tuner on simulated machines, where every setting can be tried without a clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from harness.simulated import Machine, linear
from harness.tuned import SimulatedRunner
from micro_batch_handler.config import STAGES, MicroBatchingConfig, PerStage
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import even_sizes
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.result import goals
from micro_batch_handler.tools.tuning.setting import AUTO_THREADS, Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune

__all__ = ["Outcome", "play"]

BATCH_SIZES = (1, 2, 4, 8, 16)
LANES = PerStage(2, 1, 2)
SECONDS = 60.0
NOISE = 0.02
LOAD = Load()


@dataclass(frozen=True)
class Outcome:
    """One machine, and how well it was tuned."""

    cores: float | None
    fit_off: float
    """The largest relative error of what a call in a lane costs, for 1, 4 and 16 rows."""

    recommended: Setting
    against_best: float
    """Throughput of the recommended setting, relative to the best of all settings."""

    keeps_limit: bool
    """Whether the setting recommended for a latency limit has a p99 below it."""

    tried: int
    settings: int


def play(seed: int, number: int) -> Outcome:
    """One machine: any stage the bottleneck, cores plenty or not, calls that vary by 2 %."""
    chance = random.Random(f"{seed}-{number}")  # noqa: S311  (no secret)
    costs_s = [
        (chance.choice([0.0, chance.uniform(0, 0.02)]), chance.uniform(1e-5, 3e-3)) for _ in STAGES
    ]
    cores = chance.choice([None, 1, 2, 4])
    costs = [linear(*each) for each in costs_s]
    runner = SimulatedRunner(Machine(costs, cores=cores, noise=NOISE, seed=number))
    quiet = SimulatedRunner(Machine(costs, cores=cores))
    limit_s = 3 * quiet.batch_s(Setting.whole(4))
    found = tune(
        runner,
        Setting.whole(4),
        Space(MicroBatchingConfig(), BATCH_SIZES, LANES, cores or 8),
        goals(limit_s * 1000, None),
        TimeBudget(SECONDS, now_s=lambda: runner.now_s),
        LOAD,
    )
    rates = {each: LOAD.rate(each, quiet.batch_s(each)) for each in _every_setting()}
    free, limited = (each.measured for each in found.recommendations)
    if free is None:
        raise ValueError("no setting was run")
    off = max(
        abs(known(rows) / costs[at](rows) - 1)
        for at, known in enumerate(found.measured.lanes)
        for rows in (1, 4, 16)
    )
    return Outcome(
        cores,
        off,
        free.setting,
        # PyTorch's threads change nothing here.
        rates[replace(free.setting, threads=AUTO_THREADS)] / max(rates.values()),
        limited is not None and limited.p99_s <= limit_s,
        len(found.tried),
        len(rates),
    )


def _every_setting() -> Iterator[Setting]:
    """All plans and lanes; whole batches once."""
    lanes = [PerStage(*each) for each in product((1, 2), (1,), (1, 2))]
    for rows in BATCH_SIZES:
        yield Setting.whole(rows)
        for sizes in product(even_sizes(rows), repeat=len(STAGES)):
            if min(sizes) < rows:
                yield from (Setting(rows, Plan(*sizes), each) for each in lanes)
