"""Emulated workers with a model each and around one model, tuned, and all numbers tried beside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import yaml

from benchmarks.tuner.known import HANDLER, PLENTY_OF_CORES
from micro_batch_handler.config import PerStage
from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
from micro_batch_handler.tools.tuning.handler_tuning import rivals_of
from micro_batch_handler.tools.tuning.load import Figures, Load
from micro_batch_handler.tools.tuning.result import Tuning, goals
from micro_batch_handler.tools.tuning.setting import Setting, Space
from micro_batch_handler.tools.tuning.trials import BatchRunner, TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune
from micro_batch_handler.tools.tuning.workers import Job, other_workers
from micro_batch_handler.tools.workbench.model_folder import ModelFiles
from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["MemberOutcome", "play"]

COSTS_MS = {"preprocess": [1.0, 1.0], "inference": [5.0, 0.4], "postprocess": [1.0, 0.5]}
"""The accelerator serves 16 requests in 11.4 ms; a worker needs 45 ms for them."""

MODEL_MIB = 400
BATCH_SIZES = (4, 8, 16)
COUNTS = (1, 2, 3, 4)
ROUNDS = 5
BATCHES = 4


@dataclass(frozen=True)
class MemberOutcome:
    """What was recommended of members, and what each number of them gives."""

    tuning: Tuning
    recommended: Figures
    """The best of members that tuning has found."""
    rates: Mapping[Setting, float]
    """Requests per second of every number of members, in the recommended sizes and whole."""

    @property
    def best(self) -> Setting:
        """The fastest of all that were tried."""
        return max(self.rates, key=self.rates.__getitem__)

    @property
    def against_best(self) -> float:
        """Throughput of the recommended setting, relative to that."""
        return self.rates[self.recommended.setting] / self.rates[self.best]


def play(seconds: float) -> MemberOutcome:
    """Tune for so long, then run every number of members.

    Raises:
        ValueError: no setting with members was run.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tuner-")))
        (folder / "accelerator").touch()
        settings = {
            "accelerator": str(folder / "accelerator"),
            "model_mib": MODEL_MIB,
            "costs_ms": COSTS_MS,
        }
        config = folder / "model-config.yaml"
        config.write_text(yaml.safe_dump({"batchSize": 8, "handler": settings}), encoding="utf-8")
        (folder / "sample.bin").write_bytes(b"0")
        bench = stack.enter_context(Workbench(HANDLER, ModelFiles(config_file=str(config))))
        job = Job(bench.folder, [folder / "sample.bin"], in_place=True)
        others = stack.enter_context(other_workers(job, COUNTS[-1] - 1))
        start = partial(
            other_workers, count=COUNTS[-1], shares=True, first=0, environment=dict(os.environ)
        )
        rivals, notes = rivals_of(stack, bench, job, start)
        if rivals is None:
            raise ValueError(*notes)
        runner = HandlerRunner(bench, job.samples, others, rivals)
        space = Space(bench.config, BATCH_SIZES, PerStage(2, 1, 2), PLENTY_OF_CORES, COUNTS, COUNTS)
        tuning = tune(runner, Setting.whole(8), space, goals(None, None), TimeBudget(seconds))
        ran = [each for each in tuning.tried if each.setting.shares]
        found = tuning.recommendations[0].goal.best(ran)
        if found is None:
            raise ValueError("no setting with members was run")
        return MemberOutcome(tuning, found, _tried(runner, found.setting))


def _tried(runner: BatchRunner, found: Setting) -> Mapping[Setting, float]:
    """The rate of every number of members, in turns."""
    whole = replace(Setting.whole(BATCH_SIZES[-1]), shares=True)
    settings = [
        replace(each, workers=count) for each in dict.fromkeys([found, whole]) for count in COUNTS
    ]
    taken_s: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for _ in range(ROUNDS):
        for setting, seconds in taken_s.items():
            seconds.append(runner.run(setting, BATCHES).seconds)
    load = Load()
    return {each: load.rate(each, median(taken_s[each])) for each in taken_s}
