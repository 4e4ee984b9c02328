"""The wrap command: micro-batching put into an archive that is there, or taken out again.

    wrap       adds a front of the handler and this package; the manifest names the front
    --unwrap   removes both and puts the old manifest back

Every other entry keeps its bytes, its date, its place and its compression.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.check import add_check_flag, check_archive, refuse_absent
from micro_batch_handler.tools.packing.mar_file import MarFile
from micro_batch_handler.tools.packing.output import refuse_unwritable

__all__ = ["main"]

PROG = "micro-batch-handler wrap"

_DESCRIPTION = """\
Put micro-batching in front of the handler of an archive that TorchServe serves already. Nothing
that is in the archive is changed but the manifest's name of the handler, and --unwrap gives every
file back as it was. Refuses a handler that cannot be taken over, and says what to change in it.
Settings come from the archive's model-config.yaml. With micro_batching.share_model there, one copy
of the model serves all workers; --check then loads both sides.
"""


def main(argv: Sequence[str]) -> int:
    """Run the command; the exit status is 0, or an error is raised."""
    flags = _parser().parse_args(argv)
    output: Path = flags.output or flags.archive
    if flags.output is not None and output.exists() and not flags.force:
        raise ArchiveError(f"{output} exists; give --force to replace it")
    refuse_unwritable(f"--output {output}" if flags.output else str(output), output.parent)
    refuse_absent("--check", flags.check)
    try:
        mar = MarFile(flags.archive)
        notes = mar.unwrap(output) if flags.unwrap else mar.wrap(output)
    except (OSError, zipfile.BadZipFile) as error:
        raise ArchiveError(f"{flags.archive}: {error}") from error
    for note in notes:
        print(f"{PROG}: note: {note}", file=sys.stderr)
    print(f"{output}: micro-batching {'taken out' if flags.unwrap else 'put in'}", flush=True)
    if flags.check:
        print(check_archive(output, "default", flags.check))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=_DESCRIPTION)
    parser.add_argument("archive", type=Path, help="a .mar file")
    parser.add_argument(
        "--output", type=Path, help="where to write; without it the archive itself is replaced"
    )
    parser.add_argument("--unwrap", action="store_true", help="take micro-batching out again")
    parser.add_argument("--force", action="store_true", help="replace an --output that is there")
    add_check_flag(parser)
    return parser
