"""The flags of the archive command: those of torch-model-archiver, and two more."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from model_archiver import arg_parser

from micro_batch_handler.errors import ArchiveError

__all__ = ["add_check_flag", "archive_parser", "archiver_parser"]

PROG = "micro-batch-handler archive"

_DESCRIPTION = """\
Pack a handler, its model and the micro_batch_handler package into one archive that TorchServe
serves as it is. Takes every flag of torch-model-archiver. On top of it, this command
  - adds the package, so that the server needs nothing installed but its usual packages;
  - refuses, before it writes anything, what TorchServe would only find when it loads the model;
  - makes the same archive, byte for byte, from the same files (SOURCE_DATE_EPOCH is honoured);
  - with --micro-batch, takes a handler that knows nothing of this package;
  - with --check, loads the finished archive, sends it requests, and compares their answers when
    their batch is cut.
"""

_EXAMPLE = """\
example:
  micro-batch-handler archive --model-name cats --version 1.0 --handler handler.py \\
      --serialized-file model.pt --config-file model-config.yaml \\
      --export-path model_store --force --check cat.jpg
"""


class _BuiltError(Exception):
    """Raised in place of parsing, to carry the finished parser out."""


class _HandedOut(argparse.ArgumentParser):
    def parse_args(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise _BuiltError(self)


def archiver_parser() -> argparse.ArgumentParser:
    """The parser of torch-model-archiver, with all its flags; its `parse_args` is not usable.

    Raises:
        ArchiveError: the archiver is one that does not work like 0.12.
    """
    # The archiver builds its parser and parses in one function. So that its flags need not be
    # copied here, it is shown, for the duration of that one call, an `argparse` whose parser
    # hands itself out instead of parsing.
    seen_by_archiver = SimpleNamespace(**vars(argparse))
    seen_by_archiver.ArgumentParser = _HandedOut
    arg_parser.argparse = seen_by_archiver
    try:
        arg_parser.ArgParser.export_model_args_parser()
    except _BuiltError as built:
        parser: argparse.ArgumentParser = built.args[0]
        return parser
    finally:
        arg_parser.argparse = argparse
    raise ArchiveError(
        "this torch-model-archiver no longer parses its flags as 0.12 does; "
        "install torch-model-archiver==0.12.0"
    )


def archive_parser() -> argparse.ArgumentParser:
    """The parser of the archive command."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
        parents=[archiver_parser()],
        add_help=False,  # the archiver's parser brings -h
    )
    parser.add_argument(
        "--micro-batch",
        action="store_true",
        help="Put micro-batching in front of a handler that does not have it: a class with\n"
        "TorchServe's three stages, a function, or a built-in handler. Its file is packed as it\n"
        "is; a note says what is taken over, an error what stands in the way.",
    )
    add_check_flag(parser)
    return parser


def add_check_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--check`, which takes the samples for `check_archive`."""
    parser.add_argument(
        "--check",
        metavar="SAMPLE",
        type=Path,
        nargs="+",
        help="Files with the body of one request each: a .json is sent as application/json, any\n"
        "other (a photo) without a content type, as curl -T does. When the archive is\n"
        "written, load it through TorchServe's own model loader in a fresh process, send it\n"
        "these requests alone, in one batch, and in a batch cut in several ways, and print the\n"
        "first answer. Fails unless the status of each is 200, and if an answer changes when\n"
        "the batch is cut; several different samples show more than one.",
    )
