"""The archive command: vet the inputs, pack them, and on request check the archive.

    flags      torch-model-archiver's, --micro-batch and --check
    front      with --micro-batch, a file in front of the handler, to be packed as the handler
    inputs     names and files are vetted; handler_*.py and model_config.py look inside
    content    every file of the archive, and where its bytes come from
    output     the archive, complete or not at all; formats.py writes the same bytes each time
    checking   a fresh process loads the archive and answers requests

Nothing is written before everything is vetted.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging_utils import ModelExportUtils

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.check import check_archive, refuse_absent
from micro_batch_handler.tools.packing.content import archive_content
from micro_batch_handler.tools.packing.flags import PROG, archive_parser
from micro_batch_handler.tools.packing.front import with_front
from micro_batch_handler.tools.packing.inputs import ArchiveInputs
from micro_batch_handler.tools.packing.output import ArchiveOutput
from micro_batch_handler.tools.packing.writable import refuse_unwritable

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = archive_parser().parse_args(argv)
    config = ModelArchiverConfig.from_args(flags)
    refuse_absent(flags.check)
    try:
        output = build_in_front(config) if flags.micro_batch else build(config)
    except (ModelArchiverError, OSError) as error:
        # Several lines to the archiver, one here.
        raise ArchiveError(" ".join(str(error).split())) from error
    if flags.check:
        print(check_archive(output.path, output.format, flags.check))
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
    print(output.write(content, config.model_name), flush=True)
    return output
