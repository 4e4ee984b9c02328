"""Photos per second of each handler, in one process: python -m tests.gpu.throughput --help.

The handlers take turns, so that a machine that slows down slows all of them; each batch's answers
are held against those of the network alone.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from tests.gpu.contestants import Contestant, contestants, defaults
from tests.gpu.network import Network
from tests.gpu.photos import photo, pixels
from tests.gpu.report import ENTRIES, Entries

__all__ = ["main", "measure", "rows_of", "wrong"]

TOLERANCE = 0.01
"""Of each score: kernels differ with the batch size, by less; photos differ by more."""


HALF_TOLERANCE = 0.1
"""In float16."""


@dataclass(frozen=True)
class Workload:
    """What clients send, and what is made of it.

    Args:
        body: of the request with a number.
        rows: of a batch.
        settings: of the handler.
        all_settings: whether other settings than the defaults are compared, too.
    """

    body: Callable[[int], bytes]
    rows: int
    settings: Mapping[str, Any]
    all_settings: bool = False


WORKLOADS = {
    "photos, float32": Workload(photo, 64, {}, all_settings=True),
    "photos, float16": Workload(photo, 64, {"half": True}),
    "raw pixels, float32": Workload(pixels, 128, {"raw": True}),
    "raw pixels, float16": Workload(pixels, 128, {"raw": True, "half": True}),
}
"""Photos cost the host most, to decode them; raw pixels, 150 KB a row, cost it next to nothing."""


class Turns:
    """What one handler did in all its turns."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        self.photos = 0
        self.wrong = 0
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.batches_s: list[float] = []

    @property
    def per_second(self) -> float:
        """Photos answered in a second."""
        return self.photos / self.wall_s if self.wall_s else 0.0


def measure(
    rivals: Sequence[Contestant],
    bodies: list[bytes],
    *,
    seconds: float,
    warm_s: float = 0.0,
    rounds: int,
    gpu: int | None,
    tiny: bool,
    settings: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Turns]:
    """Let each answer the same batch again and again, for so long in each round.

    All are loaded before the first round, so that settings that tune themselves go on where they
    were.
    """
    turns = [Turns(rival) for rival in rivals]
    expected: list[Any] = []
    with ExitStack() as stack:
        for turn in turns:
            turn.contestant.load(len(bodies), gpu, tiny=tiny, settings=settings)
            stack.callback(turn.contestant.close)
            first = turn.contestant.answers(bodies)  # not timed: it loads kernels
            expected = expected or first
            turn.wrong += wrong(first, expected, tolerance)
            _play(Turns(turn.contestant), bodies, warm_s, expected, tolerance)
        for _ in range(rounds):
            for turn in turns:
                _play(turn, bodies, seconds, expected, tolerance)
    if gpu is not None:
        torch.cuda.empty_cache()
    return turns


def _play(
    turn: Turns, bodies: list[bytes], seconds: float, expected: list[Any], tolerance: float
) -> None:
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    while time.perf_counter() < began_s + seconds:
        batch_s = time.perf_counter()
        answers = turn.contestant.answers(bodies)
        turn.batches_s.append(time.perf_counter() - batch_s)
        turn.photos += len(answers)
        turn.wrong += wrong(answers, expected, tolerance)
    turn.wall_s += time.perf_counter() - began_s
    turn.cpu_s += time.process_time() - cpu_began_s


def wrong(answers: Sequence[Any], expected: Sequence[Any], tolerance: float = TOLERANCE) -> int:
    """How many answers are not what they must be, but for rounding."""
    if len(answers) != len(expected):
        return len(expected)
    return sum(
        not all(
            math.isclose(one, other, rel_tol=tolerance)
            for one, other in zip_longest(_scores(found), _scores(right), fillvalue=math.nan)
        )
        for found, right in zip(answers, expected, strict=True)
    )


def _scores(answer: Any) -> list[float]:
    # An error's body has none.
    scores: list[float] = answer.get("scores", [math.nan])
    return scores


def rows_of(turns: Sequence[Turns], alone_per_second: float) -> list[dict[str, object]]:
    """Their figures, for the report, beside the rate of the network alone."""
    base = turns[0].per_second or math.nan
    return [
        {
            "handler": turn.contestant.name,
            "photos per second": round(turn.per_second, 1),
            "times BaseHandler's": round(turn.per_second / base, 3),
            "of the network alone": f"{turn.per_second / alone_per_second:.1%}",
            "batch, median ms": round(1000 * _median(turn.batches_s), 1),
            "cores in use": round(turn.cpu_s / turn.wall_s, 1) if turn.wall_s else 0.0,
            "wrong answers": turn.wrong,
        }
        for turn in turns
    ]


def _median(numbers: Sequence[float]) -> float:
    return sorted(numbers)[len(numbers) // 2] if numbers else math.nan


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, note; gives back 1 if an answer of ours was wrong."""
    options = _parser().parse_args(arguments)
    found = 0
    usual = [name for name in WORKLOADS if not options.few or name.endswith("float32")]
    for name in options.workloads or usual:
        found += _measure_one(name, WORKLOADS[name], options)
    return int(bool(found))


def _measure_one(name: str, workload: Workload, options: argparse.Namespace) -> int:
    rows = options.batch or workload.rows
    gpu = 0 if options.device == "cuda" else None
    rivals = defaults(options.lanes)
    if workload.all_settings and not options.few:
        rivals += contestants(options.lanes)[1:]
    turns = measure(
        rivals,
        [workload.body(number) for number in range(rows)],
        seconds=options.seconds,
        warm_s=options.warm,
        rounds=options.rounds,
        gpu=gpu,
        tiny=options.tiny,
        settings=workload.settings,
        tolerance=HALF_TOLERANCE if workload.settings.get("half") else TOLERANCE,
    )
    network = Network(
        [workload.body(number) for number in range(rows)],
        rows,
        gpu=gpu,
        tiny=options.tiny,
        seconds=options.seconds,
        settings=workload.settings,
    )
    title = f"Throughput in one process: {name}, batches of {rows}, preprocess lanes"
    title += f" {options.lanes}, {options.rounds} x {options.seconds:g} s in turns"
    sys.stdout.write(f"{title}\n")
    alone = {"handler": "the network alone", "photos per second": round(network.per_second, 1)}
    for row in [alone, *rows_of(turns, network.per_second)]:
        sys.stdout.write(f"{row}\n")
        if ENTRIES in os.environ:
            Entries(Path(os.environ[ENTRIES])).figures(title, row)
    return sum(turn.wrong for turn in turns if turn.contestant.module == "photo")


def _parser() -> argparse.ArgumentParser:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.throughput",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where")
    parser.add_argument(
        "--workloads",
        choices=list(WORKLOADS),
        nargs="+",
        help="all, or with --few those in float32",
    )
    parser.add_argument("--few", action="store_true", help="compare no settings but the defaults")
    parser.add_argument("--seconds", type=float, default=0.7, help="of a turn")
    parser.add_argument("--warm", type=float, default=1.2, help="seconds before the first turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each handler")
    parser.add_argument("--batch", type=int, help="photos of a batch, if not the workload's own")
    parser.add_argument("--lanes", type=int, default=max(2, cores // 2), help="of preprocess")
    parser.add_argument("--tiny", action="store_true", help="a network that a CPU can compute")
    return parser


if __name__ == "__main__":
    sys.exit(main())
