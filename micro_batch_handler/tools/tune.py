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
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path

from micro_batch_handler import __version__
from micro_batch_handler.config import AUTO, MicroBatchingConfig, PerStage
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import lanes_for, usable_cores
from micro_batch_handler.planning.curves import Line
from micro_batch_handler.tools.model_config import read_model_config
from micro_batch_handler.tools.tuning.budget import Budget
from micro_batch_handler.tools.tuning.copies import Job, run_copies
from micro_batch_handler.tools.tuning.flags import PROG, tune_parser
from micro_batch_handler.tools.tuning.goals import goals
from micro_batch_handler.tools.tuning.load import GAP, Load
from micro_batch_handler.tools.tuning.picture import written
from micro_batch_handler.tools.tuning.report import keys_of, report
from micro_batch_handler.tools.tuning.result import Tuning
from micro_batch_handler.tools.tuning.setting import Setting
from micro_batch_handler.tools.tuning.tuner import Space, tune
from micro_batch_handler.tools.tuning.workers import with_workers
from micro_batch_handler.tools.tuning.yaml_file import update
from micro_batch_handler.tools.workbench_flags import files_of, require_tools
from micro_batch_handler.tools.writable import refuse_unwritable

__all__ = ["main"]

COPIES_SHARE = 0.1
"""Of the time, how long several workers are run."""


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
    from micro_batch_handler.tools.tuning.bench import HandlerBench
    from micro_batch_handler.tools.workbench import Workbench

    load = Load(GAP if flags.gap_ms is None else Line(flags.gap_ms / 1000, 0.0))
    wanted = goals(flags.p99_ms, flags.memory_mib)
    samples = [sample.resolve() for sample in flags.sample]
    files = files_of(flags)
    with Workbench(flags.source, files, batch_size=flags.batch_size) as workbench:
        bench = HandlerBench(workbench, samples)
        with _progress(flags.seconds) as budget:
            given = bench.given(budget, flags.batch_size)
            space = _space(workbench.config, given, flags)
            tuning = tune(bench, given, space, wanted, budget, load)
    if flags.memory_mib is not None and not tuning.measured.memory:
        raise ArchiveError("--memory-mib: this system does not tell how much memory is held")
    # The handler of this process is gone, so that it takes no cores from the copies.
    job = Job(
        str(flags.source.resolve()),
        [str(sample) for sample in samples],
        COPIES_SHARE * flags.seconds,
        asdict(files),
    )
    copies = cache(partial(run_copies, job))  # goals may have the same setting
    found = [with_workers(each, flags.max_workers, load, copies) for each in tuning.recommendations]
    return replace(tuning, recommendations=found)


def _space(config: MicroBatchingConfig, given: Setting, flags: argparse.Namespace) -> Space:
    cores = usable_cores()
    auto = lanes_for(PerStage.of(AUTO), cores)
    most = flags.max_lanes
    lanes = PerStage(most or auto.preprocess, given.lanes.inference, most or auto.postprocess)
    sizes = [1 << bits for bits in range(flags.max_batch.bit_length())]
    batch_sizes = sorted({*sizes, flags.max_batch})
    return Space(config, batch_sizes, lanes, cores)


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
    keys = dict(keys_of(found))
    if found.several is None and read_model_config(path).get("minWorkers", 1) != 1:
        for name in ("minWorkers", "maxWorkers"):  # perhaps one for each device
            del keys[name]
        print(f"{PROG}: note: the workers in {path} stay; one was tuned", file=sys.stderr)
    changed = update(path, keys)
    print(f"{'Wrote' if changed else 'Nothing to change in'} {path}: {found.goal.title}")
