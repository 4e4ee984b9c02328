"""A handler tuned as the flags of the command say: loaded in several workers, then measured."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ArchiveError, ConfigError
from micro_batch_handler.planning.cores import lanes_for, usable_cores
from micro_batch_handler.planning.cost_curve import Line
from micro_batch_handler.tools.tuning.load import GAP, Load
from micro_batch_handler.tools.tuning.progress import time_budget
from micro_batch_handler.tools.tuning.result import Tuning, goals
from micro_batch_handler.tools.tuning.setting import Setting, Space, counts_up_to
from micro_batch_handler.tools.tuning.tuner import tune
from micro_batch_handler.tools.tuning.workers import Job, OtherWorkers, other_workers
from micro_batch_handler.tools.workbench.flags import files_of
from micro_batch_handler.tools.workbench.model_folder import set_share_model
from micro_batch_handler.torchserve.reading.hosted_state import refuse_state_across
from micro_batch_handler.torchserve.reading.stage_state import state_of_class

if TYPE_CHECKING:
    from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["Counts", "rivals_of", "started_workers", "tune_handler"]


def tune_handler(flags: argparse.Namespace) -> Tuning:
    """Load the handler and tune it.

    Raises:
        ArchiveError: it cannot be loaded, or memory cannot be measured and is limited.
        SettingFails: not even one request can be answered.
    """
    # Here, since it loads TorchServe, which --help does not need.
    import torch

    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.workbench import Workbench

    load = Load(GAP if flags.gap_ms is None else Line(flags.gap_ms / 1000, 0.0), flags.clients)
    samples = [sample.resolve() for sample in flags.sample]
    cores, devices = usable_cores(), torch.cuda.device_count()
    environment = dict(os.environ)  # a worker that shares its model changes it
    with ExitStack() as stack:
        workbench = stack.enter_context(
            Workbench(flags.source, files_of(flags), batch_size=flags.batch_size)
        )
        shares = workbench.config.share_model
        started = started_workers(workbench.model_yaml, cores, devices)
        counts = Counts.of(flags, max(started, min(2, cores)), shares=shares)
        start = partial(other_workers, devices=devices, environment=environment)
        job = Job(workbench.folder, samples, in_place=True)
        others = stack.enter_context(start(job, counts.own(shares) - 1, shares=shares))
        rivals: OtherWorkers | None = None
        notes: list[str] = []
        if counts.own(not shares):
            start_rivals = partial(start, count=counts.own(not shares), shares=not shares, first=0)
            rivals, notes = rivals_of(stack, workbench, job, start_rivals)
            counts = counts if rivals else counts.without(not shares)
        budget = stack.enter_context(time_budget(flags.seconds))
        runner = HandlerRunner(workbench, samples, others, rivals)
        most = counts.own(shares)
        given = runner.given(budget, flags.batch_size, min(started, most))
        filled = given
        if not load.fills(given):  # as large as the clients fill them
            filled = replace(given, batch_size=max(1, flags.clients // given.workers))
        on_device = workbench.setup.on_device
        space = _space(workbench.config, given, flags, counts, on_device=on_device)
        wanted = goals(flags.p99_ms, flags.memory_mib)
        tuning = tune(runner, filled, space, wanted, budget, load)
        if flags.memory_mib is not None and tuning.measured.memory is None:
            raise ArchiveError("--memory-mib: this system does not tell how much memory is held")
        own = _own_workers(workbench.model_yaml)
    about = [*_about(own, started, devices, given, filled, flags), *notes]
    return replace(tuning, about=about)


class Counts(NamedTuple):
    """The most workers to try."""

    plain: int
    """With a model each."""
    members: int
    """Around one model."""

    @classmethod
    def of(cls, flags: argparse.Namespace, usual: int, *, shares: bool) -> Counts:
        """As the flags say; by default as many as usual.

        Where the file says that the model is to be shared, it may be too large for more than one
        worker with a copy of its own.
        """
        plain = flags.max_workers or (1 if shares else usual)
        members = flags.max_members
        if members is None:
            members = usual if shares or plain > 1 else 0
        return cls(plain, max(members, int(shares)))

    def own(self, shares: bool) -> int:
        """Of the workers that share a model, or of the others."""
        return self.members if shares else self.plain

    def without(self, shares: bool) -> Counts:
        """None of them."""
        return Counts(self.plain, 0) if shares else Counts(0, self.members)


def rivals_of(
    stack: ExitStack,
    workbench: Workbench,
    job: Job,
    start: Callable[[Job], AbstractContextManager[OtherWorkers]],
) -> tuple[OtherWorkers | None, list[str]]:
    """Workers that share the model if those of the file do not, or the reverse, and notes on them.

    What keeps them from being tried is no error: None, and why.
    """
    shares = not workbench.config.share_model
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="micro-batch-")), "model")
    try:
        if shares:
            kind = type(workbench.handler)
            state = state_of_class(kind)
            refuse_state_across(kind.__name__, state, workbench.config.hosted_stages)
        shutil.copytree(workbench.folder, folder, copy_function=os.link)
        set_share_model(folder, shares=shares)
        rivals = stack.enter_context(start(replace(job, source=folder)))
    except (ConfigError, ArchiveError) as error:
        what = "workers around one model" if shares else "workers with a model each"
        return None, [f"{what} could not be tried: {error}"]
    return rivals, [f"workers around one model: {each}" for each in rivals.warnings if shares]


def _own_workers(model_yaml: Mapping[str, object]) -> int | None:
    """The workers that model-config.yaml asks for; None if TorchServe uses its own default."""
    least, most = (model_yaml.get(key, 0) for key in ("minWorkers", "maxWorkers"))
    if isinstance(least, int) and isinstance(most, int) and 0 < least <= most:
        return least
    return None


def started_workers(model_yaml: Mapping[str, object], cores: int, devices: int) -> int:
    """The workers that TorchServe starts: one for each GPU, or core, if the file does not say.

    As `ConfigManager.getDefaultWorkers` of TorchServe 0.12 has it, without
    `default_workers_per_model` and `number_of_gpu` in config.properties.
    """
    return _own_workers(model_yaml) or devices or cores


def _about(
    own: int | None,
    started: int,
    devices: int,
    given: Setting,
    filled: Setting,
    flags: argparse.Namespace,
) -> list[str]:
    """What a reader must know of the setting in force."""
    found = []
    if own is None:
        found.append(
            f"model-config.yaml does not say minWorkers and maxWorkers: TorchServe would start "
            f"{started}, one for each {'GPU' if devices else 'core'}, unless "
            f"default_workers_per_model in config.properties says otherwise"
        )
    if given.workers < started:
        found.append(
            f"of the {started} workers that TorchServe would start, {given.workers} ran "
            f"(--max-workers)"
        )
    if filled != given:
        found.append(
            f"{flags.clients} clients do not fill batches of {given.batch_size} in "
            f"{given.workers} workers: as it is, {filled.batch_size} come together, once "
            f"maxBatchDelay is over"
        )
    return found


def _space(
    config: MicroBatchingConfig,
    given: Setting,
    flags: argparse.Namespace,
    counts: Counts,
    *,
    on_device: bool,
) -> Space:
    cores = usable_cores()
    auto = lanes_for(PerStage.of(AUTO), cores)
    most = flags.max_lanes
    inference = given.lanes.inference
    if not (on_device or config.share_model or config.allowed_sizes):
        # PyTorch's threads inside one call gain less than calls beside each other.
        inference = max(inference, most or auto.preprocess)
    lanes = PerStage(most or auto.preprocess, inference, most or auto.postprocess)
    sizes = counts_up_to(min(flags.max_batch, flags.clients or flags.max_batch))
    numbers = {
        shares: sorted({*counts_up_to(counts.own(shares)), *extra} - {0})
        for shares, extra in (
            (config.share_model, [given.workers]),
            (not config.share_model, []),
        )
    }
    return Space(config, sizes, lanes, cores, numbers[False], numbers[True])
