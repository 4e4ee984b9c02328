"""The command: plays the workloads, writes .run/throughput.json and .md, prints the tables."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from harness.command import about, chosen, end_on_sigterm

RESULT = Path(__file__).parents[2] / ".run" / "throughput.json"

NAMES = (
    "vector",
    "vector-one-client",
    "image-launch",
    "image-launch-slow",
    "image-launch-one-client",
    "image-preprocess",
    "text",
)
CONTENDERS = ("ours", "defaults", "base", "stock", "constant", "workers", "shared")

QUICK = {"rounds": 1, "seconds": 1.0, "warm_up": 1.0, "probe": 1.0, "candidates": 2}
FULL = {"rounds": 5, "seconds": 5.0, "warm_up": 2.0, "probe": 2.0, "candidates": None}

ABOUT = """\
Requests per second and latencies of this package on a real TorchServe, beside TorchServe's own
BaseHandler and MicroBatching with the same three methods, the same config.properties and the same
log4j2.xml. Each contender has a server of its own; all are started first, then loaded in turn; the
first round is thrown away, after a warm-up 30 times as long as the others, in which the frontend's
JVM compiles its code. Takes an hour and a half on two cores; --quick half an hour.
"""

WORKLOADS = """\
workloads:
  vector             384 floats through one linear layer, 64 clients, CPU; also against a handler
                     that returns constant bytes, which no handler can beat
  image-launch       JPEGs, and an EMULATED accelerator of 5 ms + 0.4 ms per image
  image-launch-slow  the same with half the accelerator, 10 ms + 0.8 ms per image: on two cores
                     decoding is slower than the other one, whatever serves
  image-preprocess   JPEGs decoded in full, and an EMULATED accelerator of 1 ms + 0.1 ms per image
  text               a sentence encoder (MiniLM) on the CPU
  …-one-client       the median latency of single requests

TorchServe's MicroBatching has one size for all stages, and which is best depends on the model: it
gets the best of a search over sizes and threads, which short probes make before the rounds and
.run/throughput.json records. For text, both handlers get the better of one and two threads.

contenders:
  ours       this package, in one worker
  defaults   images only: the same with no `micro_batching:` section
  base       TorchServe's BaseHandler, in one worker
  stock      TorchServe's MicroBatching, in one worker
  constant   vector only: the constant bytes
  workers    images only: BaseHandler in 2, 3 or 4 workers, each with a model of its own
  shared     images only: this package with share_model in 2, 3, 4 or 6 workers, which prepare and
             finish requests around one process that has the model
A search finds how many workers are best, as it finds the sizes of MicroBatching.

The accelerator's limit is computed: batchSize images a call, and no gap between two calls. It is
no contender, and a server that makes larger calls can pass it. The share of busy cores is of the
whole machine, clients and frontend included. Memory is that of the workers and
of what they have started, without Java, after the rounds. A page that several processes use, of
whichever server, counts in equal parts: the figures of one run compare, those of two runs with
other contenders do not.

Answers are checked before anything is timed. Ends with 1 if a timed request failed. wrk makes the
load (Debian, Ubuntu: apt-get install wrk); without it, slower clients in Python, and the result
says so.

example: scripts/benchmark --workloads vector --contenders ours base --rounds 3
"""


def main() -> int:
    """Run; gives back 1 if a request failed."""
    parser = _parser()
    options = parser.parse_args()
    end_on_sigterm()
    # Imported late, so that --help needs nothing installed.
    from benchmarks.throughput.report import markdown, write
    from benchmarks.throughput.rounds import Lengths, play
    from benchmarks.throughput.workloads import WORKLOADS

    workloads = [
        replace(workload, contenders=contenders)
        for workload in map(WORKLOADS.__getitem__, options.workloads)
        if (contenders := [each for each in workload.contenders if each.key in options.contenders])
    ]
    if not workloads:
        parser.error("these contenders take part in none of these workloads; see --help for theirs")
    run = chosen(options, quick=QUICK, full=FULL)
    lengths = Lengths(
        rounds=run["rounds"],
        seconds=run["seconds"],
        warm_up_s=run["warm_up"],
        probe_s=run["probe"],
        candidates=run["candidates"],
    )
    machine = about()
    played = []
    for workload in workloads:
        played.append((workload, play(workload, lengths)))
        # After each workload, so that a run that is cut short leaves what it has.
        files = write(options.result, machine, lengths, played)
    sys.stdout.write(f"\n{markdown(machine, lengths, played)}\n")
    sys.stdout.writelines(f"{file}\n" for file in files)
    return 1 if any(entry.failed for _, entries in played for entry in entries) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark",
        description=ABOUT,
        epilog=WORKLOADS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workloads", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="see below")
    add(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=CONTENDERS,
        metavar="NAME",
        help=f"of {', '.join(CONTENDERS)}; workloads that have none of them are left out",
    )
    add("--rounds", type=int, metavar="N", help="turns of each contender (5; quick: 1)")
    add("--seconds", type=float, metavar="S", help="of a sample (5; quick: 1)")
    add("--warm-up", type=float, metavar="S", help="of load before a sample (2; quick: 1)")
    add("--probe", type=float, metavar="S", help="of a probe in a search (2; quick: 1)")
    add("--candidates", type=int, metavar="N", help="settings a search tries (all; quick: 2)")
    add("--quick", action="store_true", help="a smoke run: whether it works, not what it gives")
    add("--result", type=Path, default=RESULT, metavar="FILE", help=".run/throughput.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
