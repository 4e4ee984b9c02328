"""The tune command: measure a handler, and recommend settings for model-config.yaml.

flags      tuning/flags.py
run        tuning/bench.py runs batches of the handler, tuning/copies.py several workers
find       tuning/tuner.py
tell       tuning/report.py, tuning/picture.py
write      tuning/yaml_file.py
"""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

from micro_batch_handler import __version__
from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import lanes_for, usable_cores
from micro_batch_handler.planning.cost_curve import Line
from micro_batch_handler.tools.packing.model_config import read_model_config
from micro_batch_handler.tools.packing.writable import refuse_unwritable
from micro_batch_handler.tools.pages.tuning_page import written
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.copies import Copies, Job
from micro_batch_handler.tools.tuning.flags import PROG, tune_parser
from micro_batch_handler.tools.tuning.goals import goals
from micro_batch_handler.tools.tuning.load import GAP, Load
from micro_batch_handler.tools.tuning.report import keys_of, report
from micro_batch_handler.tools.tuning.result import Tuning
from micro_batch_handler.tools.tuning.search import counts_up_to
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.tuner import Space, tune
from micro_batch_handler.tools.tuning.workers import own_workers, started_workers
from micro_batch_handler.tools.tuning.yaml_file import update
from micro_batch_handler.tools.workbench.flags import files_of, require_tools

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = tune_parser().parse_args(argv)
    _refuse_early(flags)
    with _errors_only():
        tuning = _tuned(flags)
    print(report(tuning))
    if flags.page is not None:
        _write_page(tuning, flags, argv)
    if flags.write is not None:
        _write_keys(tuning, flags.write)
    return 0


def _refuse_early(flags: argparse.Namespace) -> None:
    """Refuse now what would only fail when all is measured."""
    if not flags.sample:
        raise ArchiveError("--sample is missing: give files with the body of one request each")
    for sample in flags.sample:
        if not sample.is_file():
            raise ArchiveError(f"--sample {sample}: there is no such file")
    for flag, path in (("--write", flags.write), ("--page", flags.page)):
        if path is not None:
            refuse_unwritable(f"{flag} {path}", path.parent)
    if flags.write is not None:
        if not flags.write.is_file():
            raise ArchiveError(f"--write {flags.write}: there is no such file to change")
        read_model_config(flags.write)
    if flags.page is not None and not flags.page.parent.is_dir():
        raise ArchiveError(f"--page {flags.page}: there is no such folder")
    wanted = {"tqdm": True, "matplotlib": flags.page, "ruamel.yaml": flags.write}
    require_tools(*(name for name, asked in wanted.items() if asked))


@contextmanager
def _errors_only() -> Iterator[None]:
    """Without what each engine says of its settings, hundreds of times."""
    logger = logging.getLogger("micro_batch_handler")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _tuned(flags: argparse.Namespace) -> Tuning:
    # Here, since it loads TorchServe, which --help does not need.
    import torch

    from micro_batch_handler.tools.tuning.bench import HandlerBench
    from micro_batch_handler.tools.workbench.workbench import Workbench

    gap = GAP if flags.gap_ms is None else Line(flags.gap_ms / 1000, 0.0)
    load = Load(gap, flags.clients)
    wanted = goals(flags.p99_ms, flags.memory_mib)
    samples = [sample.resolve() for sample in flags.sample]
    files = files_of(flags)
    job = Job(str(flags.source.resolve()), [str(sample) for sample in samples], asdict(files))
    cores, devices = usable_cores(), torch.cuda.device_count()
    with Workbench(flags.source, files, batch_size=flags.batch_size) as workbench:
        own = own_workers(workbench.model_yaml)
        started = started_workers(workbench.model_yaml, cores, devices)
        most = flags.max_workers or max(started, min(2, cores))
        with Copies(job, most - 1, devices) as copies, _progress(flags.seconds) as budget:
            bench = HandlerBench(workbench, samples, copies)
            given = bench.given(budget, flags.batch_size, min(started, most))
            filled = _filled(given, flags.clients)
            space = _space(workbench.config, given, flags, most)
            tuning = tune(bench, filled, space, wanted, budget, load)
    if flags.memory_mib is not None and not tuning.measured.memory:
        raise ArchiveError("--memory-mib: this system does not tell how much memory is held")
    return replace(tuning, about=_about(own, started, devices, given, filled, flags))


def _filled(given: Setting, clients: int | None) -> Setting:
    """The setting that there is, with batches as large as the clients fill them."""
    if clients is None or given.batch_size * given.workers <= clients:
        return given
    return replace(given, batch_size=max(1, clients // given.workers))


def _about(
    own: int | None,
    started: int,
    devices: int,
    given: Setting,
    filled: Setting,
    flags: argparse.Namespace,
) -> list[str]:
    """What a reader must know of the setting that there is."""
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
def _progress(seconds: float) -> Iterator[Budget]:
    """The time, with a bar for people."""
    from tqdm import tqdm  # of an extra

    tqdm.monitor_interval = 0  # no thread of its own while others are measured
    form = "{desc:<44.44} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=seconds, bar_format=form, disable=None, leave=False) as bar:

        def told(used_s: float, doing: str) -> None:
            bar.set_description_str(doing, refresh=False)
            bar.update(min(used_s, seconds) - bar.n)

        yield Budget(seconds, told)


def _write_page(tuning: Tuning, flags: argparse.Namespace, argv: Sequence[str]) -> None:
    about = ", ".join(
        [
            f"{PROG} {shlex.join(argv)}",
            f"micro_batch_handler {__version__}",
            f"{usable_cores()} cores",
            datetime.now(timezone.utc).date().isoformat(),
        ]
    )
    for path in written(tuning, f"{flags.source.name}, tuned", about, flags.page):
        print(f"Wrote {path}")


def _write_keys(tuning: Tuning, path: Path) -> None:
    found = tuning.recommendations[-1]
    if found.measured is None:
        raise ArchiveError(f"{path} is left as it is: no setting keeps to {found.goal.title}")
    changed = update(path, keys_of(found))
    print(f"{'Wrote' if changed else 'Nothing to change in'} {path}: {found.goal.title}")
