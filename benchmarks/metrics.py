"""The cost of metrics: the vector workload of `throughput`, with and without them, in turn.

Throughput varies with the load of the machine. The processor time of a request varies less, so it
is reported too: that of the worker, and that of the frontend, which reads the worker's lines.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.throughput.servers import stand
from benchmarks.throughput.workloads import VECTOR
from harness.command import about
from harness.load import Served, load_of
from harness.torchserve import TorchServe

__all__ = ["main", "worked_s"]

RESULT = Path(__file__).parents[1] / ".run" / "metrics.json"

WAYS = {"without": False, "with": "auto"}
"""`micro_batching.metrics`."""

TITLES = {
    "rate": "requests/s",
    "worker_us": "processor time of the worker for a request (µs)",
    "frontend_us": "the same of the frontend (µs)",
}

WORKER = "model_service_worker"


@dataclass(frozen=True)
class Sample:
    """One round of one server."""

    rate: float
    """Requests per second."""
    worker_us: float
    """Of processors, for a request."""
    frontend_us: float


def main() -> None:
    """Measure, print the medians and write all samples to .run/metrics.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one sample")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds for each server")
    options = parser.parse_args()
    machine = about()
    samples: dict[str, list[Sample]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(load_of(VECTOR.bodies(), VECTOR.content_type, VECTOR.clients))
        served = {}
        for way, metrics in WAYS.items():
            server = stack.enter_context(stand(VECTOR, VECTOR.contenders[0], Path()))
            config = {"micro_batching": {"metrics": metrics}}
            served[way] = stack.enter_context(server.serving(config, load))
            served[way].press(options.warm_up)
        for number in range(options.rounds):
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                samples[way].append(_sample(served[way], options.seconds))
    sys.stdout.write(_table(samples))
    RESULT.parent.mkdir(exist_ok=True)
    figures = {way: [vars(each) for each in of] for way, of in samples.items()}
    RESULT.write_text(json.dumps({**machine, **figures}, indent=1), encoding="utf-8")


def worked_s(server: TorchServe) -> tuple[float, float]:
    """Processor time of the worker and of the frontend, so far."""
    frontend = psutil.Process(server.frontend_pid)
    # Once a minute it has another child, which measures the machine.
    worker = next(each for each in frontend.children() if WORKER in " ".join(each.cmdline()))
    of_worker, of_frontend = worker.cpu_times(), frontend.cpu_times()
    return of_worker.user + of_worker.system, of_frontend.user + of_frontend.system


def _sample(served: Served, seconds: float) -> Sample:
    before = worked_s(served.server)
    pressed = served.press(seconds)
    after = worked_s(served.server)
    worker, frontend = (
        (end - begin) / pressed.requests * 1e6 for begin, end in zip(before, after, strict=True)
    )
    return Sample(pressed.rate, worker, frontend)


def _table(samples: dict[str, list[Sample]]) -> str:
    rows = [
        "| measure | without | with | with to without: median (and quartiles) of the rounds |",
        "| --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        without, with_ = ([getattr(each, name) for each in samples[way]] for way in WAYS)
        ratios = [b / a for a, b in zip(without, with_, strict=True)]
        low, median, high = statistics.quantiles(ratios)
        medians = f"{statistics.median(without):,.1f} | {statistics.median(with_):,.1f}"
        rows.append(f"| {title} | {medians} | {median:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
