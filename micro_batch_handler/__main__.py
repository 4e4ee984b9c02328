"""python -m micro_batch_handler <command>: find the command, run it, report its errors.

Also the console script `micro-batch-handler`. Imports no torch: packing needs none.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from micro_batch_handler import __version__
from micro_batch_handler.errors import MicroBatchError

__all__ = ["main"]

PROG = "micro-batch-handler"

COMMANDS = {
    "init": "write a folder with a handler that works, to be changed into your own",
    "advise": "say whether this package would help an archive, and what to do",
    "archive": "pack a handler, its model and this package into one archive for TorchServe",
    "wrap": "put micro-batching into an archive that is there, or take it out again",
    "trace": "show where the time of a batch goes, and what to change",
    "tune": "find the batch size, micro-batch sizes, lanes and workers for a handler",
    "ray": "serve archives with Ray Serve, on one machine or many",
}
"""What each command does, in its --help. `micro_batch_handler/tools/<command>.py`, or
`<command>/command.py`, holds `main(argv) -> int`, the exit status, and is imported only when that
command is run."""

MODULES = {"ray": "ray.command"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names (the program's own arguments if none are given)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Only the first word is read here: the rest belongs to the command, whose flags may have the
    # same names (the archiver's --version is the model's).
    command: str = _parser().parse_args(arguments[:1]).command
    module = MODULES.get(command, f"tools.{command}")
    tool = importlib.import_module(f"micro_batch_handler.{module}")
    try:
        return int(tool.main(arguments[1:]))
    except MicroBatchError as error:
        sys.stderr.write(f"{PROG} {command}: error: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Micro-batching for TorchServe.",
        epilog="commands:\n"
        + "".join(f"  {name:<10} {purpose}\n" for name, purpose in COMMANDS.items())
        + f"\n{PROG} <command> --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="<command>", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
