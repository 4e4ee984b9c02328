"""What was measured of an archive in a short time, and what is forecast from it.

load       a copy of the archive, with micro-batching in front of its handler if it has none
stages     each measured alone, as the tuner does it          three quarters of the time
plainly    whole batches in turns with TorchServe alone       the rest
forecast   every way to serve the archive                     advising/options.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import usable_cores
from micro_batch_handler.tools.advising.memory import (
    Memory,
    device_bytes,
    machine_bytes,
    model_bytes,
)
from micro_batch_handler.tools.advising.options import Forecasts, Options
from micro_batch_handler.tools.tuning.handler_tuning import started_workers
from micro_batch_handler.tools.tuning.load import Load
from micro_batch_handler.tools.tuning.measure import measure
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.progress import time_budget
from micro_batch_handler.tools.tuning.setting import Setting, Space, counts_up_to
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget
from micro_batch_handler.tools.workbench.flags import files_of
from micro_batch_handler.tools.workbench.model_folder import bring, model_folder, set_share_model

if TYPE_CHECKING:
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.ran import Ran
    from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["Findings", "find"]

TURNS_SHARE = 0.25
"""The share of the time at which the turns end."""

LEAST_TURNS = 3
MOST_TURNS = 60

LONGEST = 1 / 40
"""The share of the time that a batch of a turn may take; else it has fewer rows."""

USUAL_BATCH = 32
"""For an archive without a `batchSize` above 1. What the README's handlers are served with."""

JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Findings:
    """All that the advice and its report rest on."""

    name: str
    """The model's, in the archive."""
    brought: bool
    """Whether the archive's handler does not micro-batch by itself."""
    batch_size: int
    clients: int
    stages_s: Sequence[float]
    """Seconds of each stage for a whole batch."""
    around_s: float
    """What TorchServe alone needs besides, beyond what this package needs."""
    memory: Memory
    options: Options
    notes: Sequence[str]
    """What a reader must know."""


def find(flags: argparse.Namespace) -> Findings:
    """Measure the archive as the flags say.

    Raises:
        ArchiveError: it cannot be loaded, its handler cannot be taken over, or there is no sample.
        SettingFails: a sample is not answered.
    """
    # Here, since it loads TorchServe, which --help does not need.
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.workbench import Workbench

    with tempfile.TemporaryDirectory(prefix="micro-batch-") as private:
        folder = model_folder(flags.source.resolve(), files_of(flags), Path(private))
        try:
            front = bring(folder)
        except ArchiveError as error:
            raise ArchiveError(f"{flags.source}: {error}") from error
        # A copy of the model is measured, whatever the archive says of sharing it.
        set_share_model(folder, shares=False)
        with Workbench(folder, in_place=True) as bench:
            samples = _samples(flags.sample, bench, Path(private))
            with time_budget(flags.seconds) as budget:
                runner = HandlerRunner(bench, samples)
                return _measured(flags, bench, runner, budget, front or "")


def _measured(
    flags: argparse.Namespace,
    bench: Workbench,
    runner: HandlerRunner,
    budget: TimeBudget,
    front: str,
) -> Findings:
    import torch

    cores, devices = usable_cores(), torch.cuda.device_count()
    given = bench.batch_size
    rows = flags.batch_size or (given if given > 1 else min(USUAL_BATCH, flags.clients))
    bench.configure(batch_size=rows)
    lanes = bench.setup.lanes
    counts = counts_up_to(cores)
    space = Space(bench.config, counts_up_to(rows), lanes, cores, counts)
    alone_rows, plain_s = _compare(bench, runner, budget, rows)
    found = measure(runner, space, budget, 1.0)
    model = BatchModel(found, space.size_options(together=not found.regroups), cores)
    on_device, device = device_bytes()
    held = found.memory.at(found.largest) if found.memory else 0
    memory = Memory(
        model_bytes(bench.handler),
        int(held) or _held_bytes(),
        machine_bytes(),
        on_device,
        device,
        devices,
    )
    photos = all(sample.read_bytes().startswith(JPEG) for sample in runner.samples)
    options = Forecasts(
        model,
        Load(clients=flags.clients),
        memory,
        plain_s,
        rows,
        alone_rows,
        started_workers(bench.model_yaml, cores, devices),
        photos,
    ).options()
    notes = [f"with `wrap`, {front}"] if front else []
    if rows != given:
        notes.append(
            f"model-config.yaml has batchSize {given}, but all figures are for batchSize {rows}: "
            f"set that, or give --batch-size {given}"
        )
    if alone_rows < rows:
        notes.append("TorchServe alone can only serve this handler one request at a time")
    notes += [f"the log says: {warning}" for warning in bench.warnings]
    return Findings(
        _name(bench.folder),
        bool(front),
        rows,
        flags.clients,
        [found.whole[at](rows) for at in range(len(STAGES))],
        rows * plain_s,
        memory,
        options,
        [*notes, *_unknown(devices, photos)],
    )


def _compare(
    bench: Workbench, runner: HandlerRunner, budget: TimeBudget, rows: int
) -> tuple[int, float]:
    """Run whole batches in turns with TorchServe alone.

    Returns:
        The rows that TorchServe alone can serve at once, which are 1 if the handler fails on more;
        and the seconds that a request takes longer there.

    Raises:
        SettingFails: a sample cannot be answered.
    """
    budget.doing("comparing with TorchServe alone")
    _refuse_failures(bench.run(runner.samples))
    most = rows
    while True:
        samples = list(islice(cycle(runner.samples), rows))
        first = bench.run(samples, plainly=True)
        if rows == 1 or not (first.failures or first.seconds > LONGEST * budget.seconds):
            break
        most = 1 if first.failures else most
        rows = min(most, rows // 2)
    _refuse_failures(first)
    runner.run(Setting.whole(rows))
    more_s: list[float] = []
    while len(more_s) < LEAST_TURNS or (len(more_s) < MOST_TURNS and budget.lasts(TURNS_SHARE)):
        ours, alone = bench.run(samples), bench.run(samples, plainly=True)
        _refuse_failures(ours)
        more_s.append((alone.seconds - ours.seconds) / rows)
    return most, median(more_s)


def _refuse_failures(ran: Ran) -> None:
    for why in ran.failures.values():
        raise SettingFails(why)


def _samples(given: Sequence[Path], bench: Workbench, private: Path) -> Sequence[Path]:
    """The files with requests; without any, the handler's `example_row()` in a file."""
    from micro_batch_handler.torchserve.handler import MicroBatchMixin
    from micro_batch_handler.torchserve.hooks import hook_of

    if given:
        return [path.resolve() for path in given]
    hook = hook_of(bench.handler, "example_row", MicroBatchMixin)
    row = hook() if hook else None
    body = row.get("body", row.get("data")) if isinstance(row, dict) else None
    if body is None:
        raise ArchiveError(
            "--sample is missing: give files with the body of one request each (the handler has "
            "no example_row() to take one from)"
        )
    raw = isinstance(body, (bytes, bytearray))
    path = private / ("example_row" if raw else "example_row.json")
    path.write_bytes(bytes(body) if raw else json.dumps(body).encode())
    return [path]


def _unknown(devices: int, photos: bool) -> list[str]:
    """What this machine cannot tell."""
    if devices:
        return [
            "forecasts take Python's times, and on a GPU they have not been compared with a real "
            "TorchServe yet. Try the option beside what you have"
        ]
    decoding = "whether photos should be decoded there, " if photos else ""
    return [
        f"this machine has no GPU. If the handler will run on one, it is not known from here how "
        f"long inference takes there, {decoding}and how many copies of the model fit into its "
        f"memory: run this on that machine"
    ]


def _held_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _name(folder: Path) -> str:
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))
    return str(manifest["model"]["modelName"])
