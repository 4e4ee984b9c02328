"""A workload's contenders in turn, A B C D, A B C D, so that drift affects all alike."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.throughput.accelerator import Accelerator
from benchmarks.throughput.memory import memory_bytes
from benchmarks.throughput.search import best, spread
from benchmarks.throughput.servers import stand
from benchmarks.throughput.summary import Busy, Entry, settings_of
from benchmarks.throughput.workload import Config, Contender, Workload
from harness.clients import Sample
from harness.load import Load, Served, load_of

__all__ = ["Lengths", "play"]

FIRST_WARM_UPS = 30
"""How many times as long the first warm-up is, for all alike.

The compiler of the frontend's JVM takes up to a quarter of two cores for the first minute of load,
which hits those most that use the cores best. `auto` needs some 300 batches."""


@dataclass(frozen=True)
class Lengths:
    """How long and how often."""

    rounds: int
    seconds: float
    """Of a sample."""
    warm_up_s: float
    """Of load before a sample, which is thrown away."""
    probe_s: float
    """Of a probe in a search."""
    candidates: int | None
    """The most settings that a search tries; None for all."""


def play(workload: Workload, lengths: Lengths) -> list[Entry]:
    """All rounds of a workload; one entry for each contender, in their order.

    Raises:
        WrongAnswerError: a contender does not answer what it must.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="device-"))
        device = Path(folder, "accelerator")
        load = stack.enter_context(
            load_of(workload.bodies(), workload.content_type, workload.clients)
        )
        entries = [_search(workload, each, load, device, lengths) for each in workload.contenders]
        _tell(f"{workload.name}: starting {len(entries)} servers")
        starting = [_serving(workload, entry, load, device) for entry in entries]
        # All at once, on all cores; the stack closes those that did start if one does not.
        with ThreadPoolExecutor() as pool:
            served = list(pool.map(stack.enter_context, starting))
        busy_s = stack.enter_context(_watching(workload, device))
        # In round 0 the frontend's JVM compiles its code, and `auto` learns.
        for number in range(0 if lengths.warm_up_s else 1, lengths.rounds + 1):
            for entry, model in zip(entries, served, strict=True):
                if lengths.warm_up_s:
                    model.press(lengths.warm_up_s * (1 if number else FIRST_WARM_UPS))
                psutil.cpu_percent()
                started_s, before_s = time.monotonic(), busy_s()
                sample = model.press(lengths.seconds)
                passed_s = time.monotonic() - started_s
                busy = Busy(psutil.cpu_percent() / 100, (busy_s() - before_s) / passed_s)
                if number:
                    entry.add(sample, busy)
                _tell(
                    f"{workload.name}: round {number} of {lengths.rounds}, "
                    f"{entry.contender.title}: {_told(sample)}{'' if number else ', thrown away'}"
                )
        for entry, model in zip(entries, served, strict=True):
            entry.memory_bytes = memory_bytes(model.server)
    return entries


def _search(
    workload: Workload, contender: Contender, load: Load, device: Path, lengths: Lengths
) -> Entry:
    """The contender in its best settings, found on a server that then ends.

    Those of the rounds have all done the same before.
    """
    candidates = spread(contender.candidates, lengths.candidates)
    with ExitStack() as stack:
        if len(candidates) > 1:
            _tell(f"{workload.name}: searching {len(candidates)} settings of {contender.title}")
            server = stack.enter_context(stand(workload, contender, device))
            with server.serving(candidates[0], load) as served:
                served.press(lengths.warm_up_s * FIRST_WARM_UPS)  # else the last would be fastest

        def probe(candidate: Config, seconds: float) -> float:
            with server.serving(candidate, load) as served:
                served.press(lengths.probe_s / 2)
                sample = served.press(seconds)
            _tell(
                f"{workload.name}: {seconds:g} s of {contender.title}, {settings_of(candidate)}: "
                f"{_told(sample)}"
            )
            return sample.rate

        found = best(probe, candidates, lengths.probe_s)
    return Entry(contender, workload.measure, found)


@contextmanager
def _serving(workload: Workload, entry: Entry, load: Load, device: Path) -> Iterator[Served]:
    with (
        stand(workload, entry.contender, device) as server,
        server.serving(entry.found.candidate, load) as served,
    ):
        yield served


@contextmanager
def _watching(workload: Workload, device: Path) -> Iterator[Callable[[], float]]:
    """Tells how long the accelerator's compute engine has worked; 0 where there is none."""
    if workload.accelerator is None:
        yield lambda: 0.0
        return
    accelerator = Accelerator(device, **workload.accelerator)
    try:
        yield lambda: accelerator.busy_s()["compute"]
    finally:
        accelerator.close()


def _told(sample: Sample) -> str:
    wrong: Sequence[str] = [
        f", {count:,} {what}"
        for count, what in ((sample.refused, "refused"), (sample.lost, "lost"))
        if count
    ]
    return f"{sample.rate:,.0f}/s, p50 {sample.p50_ms:.2f} ms{''.join(wrong)}"


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
