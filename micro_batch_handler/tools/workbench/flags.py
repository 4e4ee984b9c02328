"""The flags of commands that run a handler on sample requests, and the packages they need."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.workbench.model_folder import ModelFiles

__all__ = ["above_0", "count", "files_of", "require_tools", "workbench_parser"]

_TOOLS = ("matplotlib", "ruamel.yaml", "tqdm")
"""What the extra `tools` installs."""


def workbench_parser(
    prog: str, description: str, epilog: str, source: str
) -> argparse.ArgumentParser:
    """A command's parser, with the source to load, the samples and the other files.

    Args:
        prog: the command.
        description: comes first in --help.
        epilog: comes last in --help.
        source: says in --help what the command takes as its first argument.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help=source)
    parser.add_argument(
        "--sample",
        type=Path,
        nargs="+",
        metavar="FILE",
        default=[],
        help="files with the body of one request each: a .json goes as application/json, any "
        "other without a content type. Batches take them in turn",
    )
    parser.add_argument(
        "--batch-size", type=count, metavar="N", help="requests in a batch (the model's batchSize)"
    )
    group = parser.add_argument_group("with a handler file, as in `archive`")
    group.add_argument("--config-file", metavar="FILE", help="model-config.yaml")
    group.add_argument("--serialized-file", metavar="FILE", help="the weights")
    group.add_argument("--model-file", metavar="FILE", help="the model's class")
    group.add_argument("--extra-files", metavar="FILES", help="more, with commas between them")
    return parser


def files_of(options: argparse.Namespace) -> ModelFiles:
    """The files that the flags give to a handler file."""
    return ModelFiles(
        options.config_file, options.serialized_file, options.model_file, options.extra_files
    )


def require_tools(*needed: str) -> None:
    """Refuse to begin without these packages of the extra `tools`.

    Raises:
        ArchiveError: one of them is missing; the message names all missing packages of the extra.
    """
    missing = [name for name in _TOOLS if _is_missing(name)]
    if set(missing) & set(needed):
        raise ArchiveError(
            f"not installed: {', '.join(missing)}. In the checkout of this package: "
            "pip install '.[tools]'"
        )


def _is_missing(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:  # the package around it
        return True


def count(text: str, least: int = 1) -> int:
    """Read a whole number from the command line.

    Raises:
        argparse.ArgumentTypeError: it is none, or too small.
    """
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, found {text!r}")
    return int(text)


def above_0(text: str) -> float:
    """Read a number above 0 from the command line.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, found {text!r}")
    return value
