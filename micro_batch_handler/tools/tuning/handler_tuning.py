"""A handler tuned as the flags of the command say: loaded in several workers, then measured."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import lanes_for, usable_cores
from micro_batch_handler.planning.cost_curve import Line
from micro_batch_handler.tools.tuning.load import GAP, Load
from micro_batch_handler.tools.tuning.result import Tuning, goals
from micro_batch_handler.tools.tuning.setting import Setting, Space, counts_up_to
from micro_batch_handler.tools.tuning.trials import TimeBudget
from micro_batch_handler.tools.tuning.tuner import tune
from micro_batch_handler.tools.tuning.workers import Job, other_workers
from micro_batch_handler.tools.workbench.flags import files_of

__all__ = ["started_workers", "tune_handler"]


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
    files = files_of(flags)
    cores, devices = usable_cores(), torch.cuda.device_count()
    with Workbench(flags.source, files, batch_size=flags.batch_size) as workbench:
        started = started_workers(workbench.model_yaml, cores, devices)
        most = flags.max_workers or max(started, min(2, cores))
        job = Job(flags.source.resolve(), samples, files)
        with other_workers(job, most - 1, devices) as others, _progress(flags.seconds) as budget:
            runner = HandlerRunner(workbench, samples, others)
            given = runner.given(budget, flags.batch_size, min(started, most))
            filled = given
            if not load.fills(given):  # as large as the clients fill them
                filled = replace(given, batch_size=max(1, flags.clients // given.workers))
            space = _space(workbench.config, given, flags, most)
            wanted = goals(flags.p99_ms, flags.memory_mib)
            tuning = tune(runner, filled, space, wanted, budget, load)
        if flags.memory_mib is not None and tuning.measured.memory is None:
            raise ArchiveError("--memory-mib: this system does not tell how much memory is held")
        own = _own_workers(workbench.model_yaml)
    return replace(tuning, about=_about(own, started, devices, given, filled, flags))


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
    config: MicroBatchingConfig, given: Setting, flags: argparse.Namespace, most_workers: int
) -> Space:
    cores = usable_cores()
    auto = lanes_for(PerStage.of(AUTO), cores)
    most = flags.max_lanes
    lanes = PerStage(most or auto.preprocess, given.lanes.inference, most or auto.postprocess)
    sizes = counts_up_to(min(flags.max_batch, flags.clients or flags.max_batch))
    workers = sorted({*counts_up_to(most_workers), given.workers})
    return Space(config, sizes, lanes, cores, workers)


@contextmanager
def _progress(seconds: float) -> Iterator[TimeBudget]:
    """The time, with a progress bar."""
    from tqdm import tqdm  # of an extra

    tqdm.monitor_interval = 0  # no thread of its own while others are measured
    form = "{desc:<44.44} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=seconds, bar_format=form, disable=None, leave=False) as bar:

        def told(used_s: float, doing: str) -> None:
            bar.set_description_str(doing, refresh=False)
            bar.update(min(used_s, seconds) - bar.n)

        yield TimeBudget(seconds, told)
