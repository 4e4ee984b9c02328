"""What was measured of an archive in a short time, and what is forecast from it.

load       a copy of the archive, with micro-batching in front of its handler if it has none
compare    whole batches in turns with TorchServe alone       a quarter of the time
measure    each stage alone, as the tuner does it             half of it
run        what looks best in one worker                      the rest
forecast   every way to serve the archive                     advising/options.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from micro_batch_handler.config import STAGES
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.planning.cores import usable_cores
from micro_batch_handler.tools.advising.comparison import compare
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
from micro_batch_handler.tools.tuning.result import NOISY, goals
from micro_batch_handler.tools.tuning.search import Search
from micro_batch_handler.tools.tuning.setting import Setting, Space, counts_up_to
from micro_batch_handler.tools.tuning.trials import SettingFails, TimeBudget, Trial
from micro_batch_handler.tools.workbench.flags import files_of
from micro_batch_handler.tools.workbench.model_folder import bring, model_folder, set_share_model
from micro_batch_handler.tracing.recording import call_s

if TYPE_CHECKING:
    from micro_batch_handler.tools.tuning.handler_runner import HandlerRunner
    from micro_batch_handler.tools.workbench.workbench import Workbench

__all__ = ["Findings", "find"]

USUAL_BATCH = 32
"""For an archive without a `batchSize` above 1. What the README's handlers are served with."""

MEASURED = 0.75
"""The share of the time at which measuring stages ends."""

EXPLORED = 0.9
"""The share at which trying settings ends. Then the best takes turns with whole batches."""

JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class Findings:
    """All that the advice and its report rest on."""

    name: str
    """The model's, in the archive."""
    brought: bool
    """Whether the archive's handler does not micro-batch by itself."""
    clients: int
    batch_size: int
    """The most requests of a batch."""
    rows: int
    """The requests of a batch that so many clients fill, in one worker."""
    stages_s: Sequence[float]
    """Seconds of each stage for such a batch, not cut."""
    around_s: float
    """Seconds that such a batch takes longer on TorchServe alone."""
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
    batch_size = flags.batch_size or (given if given > 1 else USUAL_BATCH)
    rows = min(batch_size, flags.clients)
    bench.configure(batch_size=rows)
    lanes = bench.setup.lanes
    counts = counts_up_to(cores)
    space = Space(bench.config, counts_up_to(rows), lanes, cores, counts)
    alone = compare(bench, runner, budget, rows, space.size_options())
    found = measure(runner, space, budget, MEASURED)
    model = BatchModel(found, space.size_options(together=not found.regroups), cores)
    on_device, device = device_bytes()
    held = found.memory.at(found.largest) if found.memory else 0
    memory = Memory(
        model_bytes(bench.handler),
        int(held) or _held_bytes(),
        machine_bytes(),
        on_device,
        device,
        devices if on_device else 0,
    )
    photos = all(sample.read_bytes().startswith(JPEG) for sample in runner.samples)
    search = Search(runner, model, Load(clients=flags.clients), goals(None, None), budget)
    started = started_workers(bench.model_yaml, cores, devices)
    forecasts = Forecasts(search, memory, alone, rows, started, photos)
    whole = Setting(rows, model.options.whole(rows))
    run(search, forecasts.proposals(), whole)
    options = forecasts.options()
    notes = [f"with `wrap`, {front}"] if front else []
    if batch_size != given:
        notes.append(
            f"the archive has batchSize {given}, but all figures are for batchSize {batch_size}: "
            f"set that, or give --batch-size {given}"
        )
    if alone.rows < rows:
        notes.append("TorchServe alone can only serve this handler one request at a time")
    if options.noise > NOISY:
        notes.append(
            f"the machine was too restless to trust this: batches that were the same took "
            f"{options.noise:.0%} more or less. Stop what else runs on it, or give more --seconds"
        )
    notes += [f"the log says: {warning}" for warning in bench.warnings]
    return Findings(
        _name(bench.folder),
        bool(front),
        flags.clients,
        batch_size,
        rows,
        _stages_s(search.trials[whole]),
        rows * alone.more_s,
        memory,
        options,
        [*notes, *_unknown(devices, photos)],
    )


def run(search: Search, proposals: Sequence[Setting], whole: Setting) -> None:
    """Run whole batches, then what looks best, which corrects what is expected of all settings.

    Raises:
        SettingFails: a request has failed in a whole batch.
    """
    search.run(whole)
    search.explore(proposals, EXPLORED)
    search.settle(whole)
    if whole in search.failed:
        raise SettingFails(search.failed[whole])


def _stages_s(trials: Sequence[Trial]) -> list[float]:
    """Seconds of each stage in a batch, on average."""
    batches = [batch.traced for trial in trials for batch in trial.batches]
    calls = [call for batch in batches for call in batch.calls]
    return [
        sum(call_s(call) for call in calls if call.stage == stage) / len(batches)
        for stage in STAGES
    ]


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
