"""Where commands write: tried before the work, and then complete or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import ModelExportUtils

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.content import MANIFEST, Content
from micro_batch_handler.tools.packing.formats import FOLDER, source_date, write_archive

__all__ = ["ArchiveOutput", "refuse_unwritable", "written_beside"]

_UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class ArchiveOutput:
    """An archive that is going to be written."""

    path: Path
    config: ModelArchiverConfig
    date: int
    """The time that everything in it gets, in seconds."""

    @classmethod
    def of(cls, config: ModelArchiverConfig) -> ArchiveOutput:
        """The output that the archiver would make; nothing is refused yet."""
        path = ModelExportUtils.get_archive_export_path(
            config.export_path, config.model_name, config.archive_format
        )
        return cls(Path(path), config, source_date())

    def refuse_existing(self) -> None:
        """Refuse to replace what `--force` does not cover, or what is no archive.

        Raises:
            ArchiveError: something is there; the message says what to do.
        """
        if not os.path.lexists(self.path):
            return
        if not self.config.force:
            raise ArchiveError(f"{self.path} exists; give --force to replace it")
        if self.config.archive_format != FOLDER:
            if self.path.is_dir():
                raise ArchiveError(f"{self.path} is a folder, which --force does not replace")
        elif self.path.is_symlink() or not (self.path / MANIFEST).is_file():
            # It may be a folder of the user's own, such as the sources of the model.
            raise ArchiveError(
                f"{self.path} is not an archive (it has no {MANIFEST}), and "
                "--force replaces only those; move it away, or give another --export-path"
            )

    def write(self, content: Content) -> str:
        """Write the archive; return a line that says its size, its files and its checksum.

        Raises:
            ArchiveError: another build has finished meanwhile.
            OSError: it cannot be written; an older archive is still there.
        """
        style = self.config.archive_format
        with written_beside(self.path) as beside:
            write_archive(beside, style, content, self.date, self.config.model_name)
            self.refuse_existing()  # again: another build may have finished meanwhile
            self._move_in(beside)
        files = [self.path / name for name in content] if style == FOLDER else [self.path]
        size = _size(sum(file.stat().st_size for file in files))
        return f"{self.path}: {size}, {len(content)} files, sha256 {_checksum(files, self.path)}"

    def _move_in(self, beside: Path) -> None:
        if not self.path.is_dir():
            beside.replace(self.path)
            return
        # A folder cannot be replaced in one step, only moved away first.
        old = beside.with_suffix(".old")
        self.path.rename(old)
        try:
            beside.rename(self.path)
        except OSError:
            old.rename(self.path)
            raise
        shutil.rmtree(old)


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


def _checksum(files: list[Path], root: Path) -> str:
    """Hash the file's bytes; for a folder, the name and the bytes of each file."""
    digest = hashlib.sha256()
    for file in files:
        if file != root:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0")
        with file.open("rb") as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _size(count: float) -> str:
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - units are powers of 1000
        count, unit = count / 1000, unit + 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"
