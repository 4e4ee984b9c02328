"""Emulated handlers with costs drawn at random, tuned, and run beside their best settings."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import yaml

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.planning.constants import HAND_OVER_S
from micro_batch_handler.planning.forecast import Forecast
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.planning.sizes import even_sizes
from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.result import Tuning, goals
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune
from micro_batch_handler.tools.workbench.model_folder import ModelFiles
from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["Case", "Outcome", "draw", "play"]

HANDLER = Path(__file__).with_name("emulated.py")
BATCH_SIZES = (1, 2, 4, 8, 16)
LANES = PerStage(2, 1, 2)
PLENTY_OF_CORES = 64
"""Stages that sleep keep no core busy."""

RIVALS = 3
"""So many of the best settings by their true costs are run beside the recommended one."""

ROUNDS = 9


@dataclass(frozen=True)
class Case:
    """Seconds that a call of each stage costs: the fixed part, and that of each row."""

    costs_s: Sequence[tuple[float, float]]

    def cost_s(self, at: int, rows: int) -> float:
        """Seconds of a call."""
        fixed_s, row_s = self.costs_s[at]
        return fixed_s + row_s * rows

    def batch_s(self, setting: Setting) -> float:
        """Seconds of a batch by these costs."""
        rows = setting.batch_size
        if not setting.splits:
            return sum(self.cost_s(at, rows) for at in range(len(STAGES)))
        costs = [lambda k, at=at: self.cost_s(at, k) for at in range(len(STAGES))]  # type: ignore[misc]
        return Forecast(rows, costs, tuple(setting.lanes), HAND_OVER_S).finish_s(setting.plan)


@dataclass(frozen=True)
class Outcome:
    """A case, and how well it was tuned."""

    case: Case
    tuning: Tuning
    fit_off: float
    """The largest relative error of a fitted cost, at 1, 4 and 16 rows."""

    against_best: float
    """Throughput of the recommended setting, relative to the fastest of all."""

    best: Setting
    p99_limit_s: float

    @property
    def recommended(self) -> Setting | None:
        """The setting recommended for throughput."""
        found = self.tuning.recommendations[0].measured
        return None if found is None else found.setting


def draw(seed: int, number: int) -> Case:
    """The case of this number: a whole batch of 16 takes some 100 to 300 ms."""
    chance = random.Random(f"{seed}-{number}")  # noqa: S311  (no secret)
    return Case([(chance.uniform(0.002, 0.02), chance.uniform(0.001, 0.006)) for _ in STAGES])


def play(case: Case, seconds: float) -> Outcome:
    """Tune for so long, then run the best of all settings beside it."""
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        config = Path(folder, "model-config.yaml")
        costs_ms = {
            stage: [fixed_s * 1000, row_s * 1000]
            for stage, (fixed_s, row_s) in zip(STAGES, case.costs_s, strict=True)
        }
        keys = {"batchSize": 4, "handler": {"costs_ms": costs_ms}}
        config.write_text(yaml.safe_dump(keys), encoding="utf-8")
        sample = Path(folder, "sample.bin")
        sample.write_bytes(b"0")
        with Workbench(HANDLER, ModelFiles(config_file=str(config))) as workbench:
            runner = HandlerRunner(workbench, [sample])
            return _tuned(case, workbench, runner, seconds)


def _tuned(case: Case, workbench: Workbench, runner: HandlerRunner, seconds: float) -> Outcome:
    load = Load()
    limit_s = 3 * case.batch_s(Setting.whole(4))
    space = Space(workbench.config, BATCH_SIZES, LANES, PLENTY_OF_CORES)
    wanted = goals(limit_s * 1000, None)
    tuning = tune(runner, Setting.whole(4), space, wanted, TimeBudget(seconds), load)
    ranked = sorted(_every_setting(), key=lambda each: -load.rate(each, case.batch_s(each)))
    chosen = tuning.recommendations[0].measured
    settings = list(dict.fromkeys([*([chosen.setting] if chosen else []), *ranked[:RIVALS]]))
    taken_s: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for _ in range(ROUNDS):
        for setting in settings:
            taken_s[setting].append(runner.run(setting).seconds)
    rates = {each: load.rate(each, median(taken_s[each])) for each in settings}
    best = max(rates, key=rates.__getitem__)
    off = max(
        abs(known(rows) / case.cost_s(at, rows) - 1)
        for at, known in enumerate(tuning.measured.lanes)
        for rows in (1, 4, 16)
    )
    ratio = rates[chosen.setting] / rates[best] if chosen else 0.0
    return Outcome(case, tuning, off, ratio, best, limit_s)


def _every_setting() -> Iterable[Setting]:
    lanes = [
        PerStage(*each) for each in product(*(range(1, most + 1) for most in vars(LANES).values()))
    ]
    for rows in BATCH_SIZES:
        yield Setting.whole(rows)
        for sizes in product(even_sizes(rows), repeat=len(STAGES)):
            if min(sizes) < rows:
                yield from (Setting(rows, Plan(*sizes), each) for each in lanes)
