"""Where an archive ends up: refused if something is there, and then complete or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import MANIFEST_FILE_NAME, MAR_INF, ModelExportUtils

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.formats import (
    packed_files,
    source_date,
    write_folder,
    write_tgz,
    write_zip,
)

__all__ = ["ArchiveOutput"]

_UNITS = ("bytes", "kB", "MB", "GB")


@dataclass(frozen=True)
class ArchiveOutput:
    """The archive to be."""

    path: Path

    format: str
    """As `--archive-format` has it."""

    force: bool
    """Whether it may replace an older archive."""

    date: int
    """The time that everything in it gets, in seconds."""

    @classmethod
    def of(cls, config: ModelArchiverConfig) -> ArchiveOutput:
        """The output that the archiver would make; what is there is not looked at yet."""
        path = ModelExportUtils.get_archive_export_path(
            config.export_path, config.model_name, config.archive_format
        )
        return cls(Path(path), config.archive_format, config.force, source_date())

    @property
    def is_folder(self) -> bool:
        """Whether the format is a folder, not a file."""
        return self.format == "no-archive"

    def refuse_existing(self) -> None:
        """Refuse to replace what `--force` does not cover, or what is no archive."""
        if not os.path.lexists(self.path):
            return
        if not self.force:
            raise ArchiveError(f"{self.path} exists; give --force to replace it")
        if not self.is_folder:
            if self.path.is_dir():
                raise ArchiveError(f"{self.path} is a folder, which --force does not replace")
        elif self.path.is_symlink() or not (self.path / MAR_INF / MANIFEST_FILE_NAME).is_file():
            # It may be a folder of the user's own, the sources of the model for example.
            raise ArchiveError(
                f"{self.path} is not an archive (it has no {MAR_INF}/{MANIFEST_FILE_NAME}), and "
                "--force replaces only those; move it away, or give another --export-path"
            )

    def write(self, folder: Path, model_name: str) -> str:
        """Pack the folder: beside the output first, then moved to its name in one step.

        Returns a line that says what was written.
        """
        names = packed_files(folder)
        # A hidden name, which TorchServe passes over when it loads a whole model store.
        beside = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.new")
        try:
            if self.is_folder:
                write_folder(beside, folder, names, self.date)
            else:
                with beside.open("xb") as out:
                    if self.format == "tgz":
                        write_tgz(out, folder, names, self.date, model_name)
                    else:
                        stored = self.format == "zip-store"
                        kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                        write_zip(out, folder, names, self.date, kind)
            self.refuse_existing()  # again: another build may have finished meanwhile
            self._move_in(beside)
        finally:
            _remove(beside)
        files = [self.path / name for name in names] if self.is_folder else [self.path]
        size = _size(sum(file.stat().st_size for file in files))
        return f"{self.path}: {size}, {len(names)} files, sha256 {_checksum(files, self.path)}"

    def _move_in(self, beside: Path) -> None:
        if not (self.is_folder and self.path.exists()):
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


def _checksum(files: list[Path], root: Path) -> str:
    """Of the file's bytes; of a folder, over the name and the bytes of each file."""
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


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
