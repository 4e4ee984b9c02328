"""The places that commands write to: tried before the work, and replaced in one step after it."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from micro_batch_handler.errors import ArchiveError

__all__ = ["refuse_unwritable", "written_beside"]


def refuse_unwritable(flag: str, folder: Path) -> None:
    """Refuse a folder in which no file can be made; for one that is not there, try its parents.

    A file is made there and removed at once: permission bits alone do not tell of file systems
    that are mounted read-only, nor what root may do.

    Raises:
        ArchiveError: no file can be made there; the message names the flag and what to change.
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


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Give a new name in the same folder, to write there first and to rename when all is written.

    Whatever still has that name at the end is removed. The name is hidden, so TorchServe passes
    it over when it loads a whole model store.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        yield beside
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)
