"""The archive command: vet the inputs, pack them, and on request check the archive.

    front      with --micro-batch, a file in front of the handler, to be packed as the handler
    inputs     names and files are vetted; handler_*.py and model_config.py look inside
    content    every file of the archive, and where its bytes come from
    output     the archive, complete or not at all; formats.py writes the same bytes each time
    checking   a fresh process loads the archive and answers requests

Nothing is written before everything is vetted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from model_archiver import arg_parser
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging_utils import ModelExportUtils

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.check import add_check_flag, check_archive, refuse_absent
from micro_batch_handler.tools.packing.content import archive_content
from micro_batch_handler.tools.packing.front import with_front
from micro_batch_handler.tools.packing.inputs import ArchiveInputs
from micro_batch_handler.tools.packing.output import ArchiveOutput, refuse_unwritable

__all__ = ["archive_parser", "archiver_parser", "main"]

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
With micro_batching.share_model in model-config.yaml, workers load the handler without the model and
ask one process that has it. A handler whose stages keep state for each other across these two is
refused, and --check loads both.
"""

_EXAMPLE = """\
example:
  micro-batch-handler archive --model-name cats --version 1.0 --handler handler.py \\
      --serialized-file model.pt --config-file model-config.yaml \\
      --export-path model_store --force --check cat.jpg
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = archive_parser().parse_args(argv)
    config = ModelArchiverConfig.from_args(flags)
    refuse_absent("--check", flags.check)
    try:
        output = build_in_front(config) if flags.micro_batch else build(config)
    except (ModelArchiverError, OSError) as error:
        # Several lines to the archiver, one here.
        raise ArchiveError(" ".join(str(error).split())) from error
    if flags.check:
        print(check_archive(output.path, flags.archive_format, flags.check))
    return 0


def build_in_front(config: ModelArchiverConfig) -> ArchiveOutput:
    """Build the archive with micro-batching in front of its handler."""
    with tempfile.TemporaryDirectory(prefix="micro-batch-front-") as folder:
        fronted, note = with_front(config, Path(folder))
        output = build(fronted)
    print(f"{PROG}: note: {note}", file=sys.stderr)
    return output


def build(config: ModelArchiverConfig) -> ArchiveOutput:
    """Vet the inputs and write one archive; say on stdout what was written."""
    ModelExportUtils.validate_inputs(config.model_name, config.export_path)
    output = ArchiveOutput.of(config)
    refuse_unwritable(f"--export-path {config.export_path}", output.path.parent)
    inputs = ArchiveInputs.vetted(config, output.path)
    output.refuse_existing()
    for note in inputs.notes:
        print(f"{PROG}: note: {note}", file=sys.stderr)
    content = archive_content(config, inputs, output.date)
    print(output.write(content), flush=True)
    return output


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
