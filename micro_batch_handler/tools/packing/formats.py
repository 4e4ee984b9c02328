"""The archive formats, read and written; the same content always gives the same bytes.

Entries are sorted, times are fixed, and owners and permissions say nothing of the machine.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.content import Content

__all__ = ["FOLDER", "add_to_zip", "source_date", "unpack", "write_archive", "write_folder"]

FOLDER = "no-archive"
"""The format that is a folder, by its name in `--archive-format`."""

_EARLIEST = 315532800  # 1980-01-01, the first time that a zip file can hold
_LATEST = 2**32 - 1  # 2106-02-07, the last time that a gzip header can hold

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


def source_date() -> int:
    """The time that every entry gets, in seconds; https://reproducible-builds.org/specs.

    Raises:
        ArchiveError: SOURCE_DATE_EPOCH is not a number.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", str(_EARLIEST))
    try:
        seconds = int(text)
    except ValueError as error:
        raise ArchiveError(f"SOURCE_DATE_EPOCH must be whole seconds, found {text!r}") from error
    return min(max(seconds, _EARLIEST), _LATEST)


def write_archive(target: Path, style: str, content: Content, date: int, model_name: str) -> None:
    """Write a new archive.

    Args:
        target: the file or folder to make.
        style: the format, by its name in `--archive-format`.
        content: the files.
        date: the time that they get, in seconds.
        model_name: the model's name.
    """
    if style == FOLDER:
        write_folder(target, content, date)
    elif style == "tgz":
        _write_tgz(target, content, date, model_name)
    else:
        compression = zipfile.ZIP_STORED if style == "zip-store" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(target, "x") as archive:
            add_to_zip(archive, content, date, compression)


def add_to_zip(archive: zipfile.ZipFile, content: Content, date: int, compression: int) -> None:
    """Write the content as the next entries of a .mar file."""
    for name, source in content.items():
        entry = zipfile.ZipInfo(name, time.gmtime(date)[:6])
        entry.compress_type = compression
        entry.create_system = 3  # Unix, wherever this runs
        entry.external_attr = (0o100000 | _FILE_MODE) << 16
        # If zipfile knows the size beforehand, it knows whether the entry needs the large format.
        entry.file_size = _size_of(source)
        with _opened(source) as read, archive.open(entry, "w") as write:
            shutil.copyfileobj(read, write, 1 << 20)


def write_folder(target: Path, content: Content, date: int) -> None:
    """Write the content as files below `target`, which is made."""
    target.mkdir()
    for name, source in content.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with _opened(source) as read, path.open("xb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
        path.chmod(_FILE_MODE)
        os.utime(path, (date, date))
    for root, _, _ in os.walk(target, topdown=False):
        Path(root).chmod(_FOLDER_MODE)
        os.utime(root, (date, date))


def unpack(archive: Path, style: str, folder: Path) -> None:
    """Put the archive's files below `folder`, which is made; the archive stays as it is.

    The code in an archive is going to be run, so nothing is gained by distrusting its names.
    """
    if style == FOLDER:
        shutil.copytree(archive, folder)  # a copy: the archive stays free of __pycache__
    elif style == "tgz":
        with tarfile.open(archive) as packed, tempfile.TemporaryDirectory(dir=folder.parent) as top:
            packed.extractall(top, **_only_plain_files())  # noqa: S202 - see above
            (root,) = Path(top).iterdir()
            root.rename(folder)
    else:
        with zipfile.ZipFile(archive) as packed_zip:
            packed_zip.extractall(folder)  # noqa: S202 - see above


def _write_tgz(target: Path, content: Content, date: int, root: str) -> None:
    """Put everything under `root/`: TorchServe drops the first folder of a name."""
    with (
        target.open("xb") as out,
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, source in content.items():
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size = _size_of(source)
            entry.mtime = date
            entry.mode = _FILE_MODE
            with _opened(source) as read:
                archive.addfile(entry, read)


def _opened(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


def _size_of(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _only_plain_files() -> dict[str, Any]:
    # Python 3.12 warns without a filter; the first releases of 3.10 have none.
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
