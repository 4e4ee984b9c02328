"""The command: runs the parts that are named and prints what they found; 1 if that is wrong."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from harness.command import end_on_sigterm

RESULT = Path(__file__).parents[2] / ".run" / "sharing.json"
PARTS = ("answers", "kill", "mixed", "memory", "long")


def main() -> int:
    """Run; gives back 1 if anything is not as it must be."""
    options = _parser().parse_args()
    parts = options.parts or PARTS
    unknown = set(parts) - set(PARTS)
    if unknown:
        sys.stderr.write(f"no parts: {', '.join(unknown)}; there are {', '.join(PARTS)}\n")
        return 2
    # Imported late, so that --help needs nothing installed.
    from benchmarks.sharing.answers import answers
    from benchmarks.sharing.kill import kill
    from benchmarks.sharing.long import long
    from benchmarks.sharing.memory import memory
    from benchmarks.sharing.mixed import mixed
    from benchmarks.sharing.part import Found, say
    from harness.command import describe

    run: dict[str, Callable[[], Found]] = {
        "answers": lambda: answers(options.kinds),
        "kill": lambda: kill(options.kills, options.clients, options.seconds),
        "mixed": lambda: mixed(
            options.seconds, options.clients, options.seed, options.hosted_stages
        ),
        "memory": lambda: memory(options.members),
        "long": lambda: long(options.batches),
    }
    end_on_sigterm()
    about = describe()
    found = []
    for part in parts:
        say(f"{part}: begins")
        found.append(run[part]())
    RESULT.parent.mkdir(exist_ok=True)
    result = {**about, "options": vars(options), "parts": [vars(each) for each in found]}
    RESULT.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")
    for each in found:
        sys.stdout.write(f"\n## {each.part}: {'WRONG' if each.wrong else 'as it must be'}\n\n")
        sys.stdout.write(f"{each.text}\n")
        for line in each.wrong:
            sys.stdout.write(f"\n- {line}")
    told = ", ".join(f"{key} {value}" for key, value in about.items())
    sys.stdout.write(f"\n\n{told}\n{RESULT}\n")
    return 1 if any(each.wrong for each in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharing",
        description="Hold share_model to its promises on a real TorchServe. answers: handlers as "
        "users write them answer as they do alone, or are refused. kill: the process with the "
        "model is killed under load, and no good request fails. mixed: requests that raise, hang, "
        "lack memory or lose the device in inference cost themselves only. memory: weights are in "
        "memory once. long: memory and open files stay as they are.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; or all")
    parser.add_argument("--clients", type=int, default=64, help="of kill and mixed")
    parser.add_argument("--seconds", type=float, default=60, help="of kill and mixed")
    parser.add_argument("--kills", type=int, default=10, help="in these seconds")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 4], help="of memory")
    parser.add_argument("--batches", type=int, default=10_000, help="of long")
    parser.add_argument("--kinds", nargs="+", default=[], metavar="NAME", help="of answers")
    parser.add_argument(
        "--hosted-stages", nargs="+", default=["inference"], metavar="STAGE", help="of mixed"
    )
    parser.add_argument("--seed", type=int, default=1, help="of mixed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
