"""Where a command will write: tried before it works for minutes, so that the flag can be named."""

from __future__ import annotations

import tempfile
from pathlib import Path

from micro_batch_handler.errors import ArchiveError

__all__ = ["refuse_unwritable"]


def refuse_unwritable(flag: str, folder: Path) -> None:
    """Refuse a folder in which no file can be made; of one that is to be made, the folder above.

    A file is made there and goes at once: permission bits alone do not tell of file systems that
    are mounted read-only, nor what root may do.

    Raises:
        ArchiveError: no file can be made there; with the flag and what to change.
    """
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ArchiveError(
            f"{flag} cannot be written: {there}: {error.strerror}; give a folder in which this "
            "user may make files"
        ) from error
