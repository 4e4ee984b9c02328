"""The command: loads each handler in turn, writes .run/faults.json, prints a table."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

RESULT = Path(__file__).parents[2] / ".run" / "faults.json"
HANG_S = 5.0
HANG_EVERY_S = 6.0


def main() -> int:
    """Run; gives back 1 if this package failed a good request or mistook a bad one."""
    options = _parser().parse_args()
    # Imported late, so that --help needs nothing installed.
    from benchmarks.faults.rounds import HANDLERS, Conditions, play
    from benchmarks.faults.summary import Summary, table
    from harness.command import describe

    about = describe()
    hang_s = None if options.hang_for_ever else HANG_S
    conditions = Conditions(options.clients, options.seconds, hang_s, HANG_EVERY_S)
    handlers = ["coded"] if options.only_ours else list(HANDLERS)
    summaries = {handler: Summary(HANDLERS[handler]) for handler in handlers}
    for number in range(1, options.rounds + 1):
        for handler, summary in summaries.items():
            play(handler, conditions, number, summary)

    result = {
        **about,
        "conditions": vars(conditions),
        "config": {handler: conditions.config(handler) for handler in handlers},
        "handlers": [each.figures() for each in summaries.values()],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    sys.stdout.write(f"\n{table(list(summaries.values()))}\n\n{told}\n{RESULT}\n")
    return 0 if summaries["coded"].flawless else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Load a real TorchServe with good and bad images, check every answer, and "
        "compare this package with TorchServe's own handlers. Of the images, 2 % are corrupt and "
        f"for 1 % inference raises; every {HANG_EVERY_S:g} s one hangs in preprocess. Then 20,000 "
        "batches with random faults in one process. Takes about six minutes.",
        epilog="example: scripts/soak --only-ours --seconds 300",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="of load for each handler")
    parser.add_argument("--clients", type=int, default=64, help="threads that send requests")
    parser.add_argument("--rounds", type=int, default=1, help="each handler's turns, interleaved")
    parser.add_argument("--only-ours", action="store_true", help="leave TorchServe's handlers out")
    parser.add_argument(
        "--hang-for-ever",
        action="store_true",
        help=f"images that hang never return, instead of after {HANG_S:g} s; the third ends the "
        "worker, which costs the requests of that moment",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
