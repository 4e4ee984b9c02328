"""The command: plays the workloads on all servers, writes .run/peers.json, .md and .html."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.command import about, chosen, end_on_sigterm

ROOT = Path(__file__).parents[2]
RESULT = ROOT / ".run" / "peers.json"
PAGE = ROOT / "docs" / "benchmarks.md"

WORKLOADS = ("vector", "image", "text")
SERVERS = (
    "ours",
    "ours-2",
    "base",
    "base-2",
    "stock",
    "ours-ray",
    "mosec",
    "triton",
    "litserve",
    "bentoml",
    "ray",
)

QUICK = {
    "rounds": 1,
    "seconds": 2.0,
    "warm_up": 3.0,
    "probe": 1.0,
    "candidates": 1,
    "clients": [8],
}
FULL = {
    "rounds": 3,
    "seconds": 5.0,
    "warm_up": 30.0,
    "probe": 3.0,
    "candidates": None,
    "clients": [1, 8, 64, 256],
}

ABOUT = """\
Requests per second, latencies, processor time and memory of this package beside other servers, on
the same machine, with the same model, pre- and postprocessing, load and clients. Each peer is the
server that its own documentation leads to (benchmarks/peers/NAME/), in a virtual environment of its
own in .run/peers/, made at first use. Every answer is checked before anything is timed. Takes
more than an hour, and what it installs before that; --quick some minutes.
"""


def main() -> int:
    """Run; gives back 1 if a server was left out."""
    options = _parser().parse_args()
    if options.publish:
        return _publish(options.publish)
    end_on_sigterm()
    # Imported late, so that --help needs nothing installed.
    from benchmarks.peers.contestants import WORKLOADS as ALL
    from benchmarks.peers.contestants import server_of
    from benchmarks.peers.environments import prepare
    from benchmarks.peers.report import markdown, result_of, write
    from benchmarks.peers.rounds import Lengths, play
    from benchmarks.peers.servers import PeerServer

    run = chosen(options, quick=QUICK, full=FULL)
    lengths = Lengths(
        rounds=run["rounds"],
        clients=run["clients"],
        seconds=run["seconds"],
        warm_up_s=run["warm_up"],
        settle_s=min(1.0, run["seconds"] / 2),
        probe_s=run["probe"],
        candidates=run["candidates"],
        faults_s=0.0 if options.no_faults else 2 * run["seconds"],
    )
    servers = [server_of(name) for name in options.servers]
    for server in servers:
        if isinstance(server, PeerServer):
            prepare(server.peer)
    machine = about()
    played = []
    for name in options.workloads:
        played.append((name, ALL[name], play(ALL[name], servers, lengths)))
        # After each workload, so that a run that is cut short leaves what it has.
        result = result_of(machine, lengths, played)
        files = write(options.result, result)
    sys.stdout.write(f"\n{markdown(result)}\n")
    sys.stdout.writelines(f"{file}\n" for file in files)
    return 1 if any(len(entries) < len(servers) for _, _, entries in played) else 0


def _publish(paths: Sequence[Path]) -> int:
    """Puts results that runs have left onto the page; 1 if they cannot be published."""
    from benchmarks.peers.publish import publish

    try:
        read = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        # What is on the page already is a list.
        results = [
            each for found in read for each in (found if isinstance(found, list) else [found])
        ]
        files = publish(results, PAGE)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{', '.join(map(str, paths))} cannot be published: {error!r}\n")
        return 1
    sys.stdout.writelines(f"{file}\n" for file in files)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark-peers",
        description=ABOUT,
        epilog="Ends with 1 if a server did not start or answered wrong: it is left out.\n\n"
        "examples: scripts/benchmark-peers --workloads image --servers ours mosec --clients 8 64\n"
        "          scripts/benchmark-peers --publish .run/peers.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = f"of {', '.join(WORKLOADS)}"
    add("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS, metavar="NAME", help=names)
    names = f"of {', '.join(SERVERS)}"
    add("--servers", nargs="+", choices=SERVERS, default=SERVERS, metavar="NAME", help=names)
    add("--clients", nargs="+", type=int, metavar="N", help="numbers of clients (1 8 64 256)")
    add("--rounds", type=int, metavar="N", help="turns of each server (3; quick: 1)")
    add("--seconds", type=float, metavar="S", help="of a sample (5; quick: 2)")
    add("--warm-up", type=float, metavar="S", help="of load before the first round (30; quick: 3)")
    add("--probe", type=float, metavar="S", help="of a probe in a search (3; quick: 1)")
    add("--candidates", type=int, metavar="N", help="settings a search tries (all; quick: 1)")
    add("--no-faults", action="store_true", help="leave out the load with bad requests")
    add("--quick", action="store_true", help="a smoke run: whether it works, not what it gives")
    add("--result", type=Path, default=RESULT, metavar="FILE", help=".run/peers.json")
    told = "runs nothing; puts the results of runs, with pictures, into docs/benchmarks.md"
    add("--publish", nargs="+", type=Path, metavar="FILE", help=told)
    return parser


if __name__ == "__main__":
    sys.exit(main())
