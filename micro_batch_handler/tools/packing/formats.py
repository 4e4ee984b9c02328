"""The archive formats, written so that the same files give the same bytes, and read.

Entries are sorted, times are fixed, and owners and permissions say nothing of the machine.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.inputs import is_packed_folder

__all__ = [
    "add_to_zip",
    "packed_files",
    "source_date",
    "unpack",
    "write_folder",
    "write_tgz",
    "write_zip",
]

_EARLIEST = 315532800  # 1980-01-01, the first time that a zip file can hold
_LATEST = 2**32 - 1  # 2106-02-07, the last time that a gzip header can hold

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755


def source_date() -> int:
    """The time that every entry gets, in seconds; https://reproducible-builds.org/specs."""
    text = os.environ.get("SOURCE_DATE_EPOCH", str(_EARLIEST))
    try:
        seconds = int(text)
    except ValueError as error:
        raise ArchiveError(f"SOURCE_DATE_EPOCH must be whole seconds, found {text!r}") from error
    return min(max(seconds, _EARLIEST), _LATEST)


def packed_files(folder: Path) -> list[str]:
    """The files to pack, relative to the folder, in the order of their names."""
    names = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if is_packed_folder(name)]
        names += [(Path(root) / name).relative_to(folder).as_posix() for name in files]
    return sorted(names)


def write_zip(out: BinaryIO, folder: Path, names: list[str], date: int, compression: int) -> None:
    """A .mar file; `compression` is `zipfile.ZIP_DEFLATED` or `ZIP_STORED`."""
    with zipfile.ZipFile(out, "w") as archive:
        add_to_zip(archive, folder, names, date, compression)


def add_to_zip(
    archive: zipfile.ZipFile, folder: Path, names: list[str], date: int, compression: int
) -> None:
    """Write these files of the folder as the next entries."""
    for name in names:
        entry = zipfile.ZipInfo(name, time.gmtime(date)[:6])
        entry.compress_type = compression
        entry.create_system = 3  # Unix, wherever this runs
        entry.external_attr = (0o100000 | _FILE_MODE) << 16
        # Told its size beforehand, zipfile knows whether the entry needs the large format.
        entry.file_size = (folder / name).stat().st_size
        with (folder / name).open("rb") as source, archive.open(entry, "w") as target:
            shutil.copyfileobj(source, target, 1 << 20)


def write_tgz(out: BinaryIO, folder: Path, names: list[str], date: int, root: str) -> None:
    """A .tar.gz file with everything under `root/`: TorchServe drops the first folder of a name."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in names:
            entry = tarfile.TarInfo(f"{root}/{name}")
            entry.size = (folder / name).stat().st_size
            entry.mtime = date
            entry.mode = _FILE_MODE
            with (folder / name).open("rb") as source:
                archive.addfile(entry, source)


def write_folder(target: Path, folder: Path, names: list[str], date: int) -> None:
    """The files as they are, below `target`, which is made."""
    target.mkdir()
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
        (target / name).chmod(_FILE_MODE)
        os.utime(target / name, (date, date))
    for root, _, _ in os.walk(target, topdown=False):
        Path(root).chmod(_FOLDER_MODE)
        os.utime(root, (date, date))


def unpack(archive: Path, archive_format: str, folder: Path) -> None:
    """The archive's files below `folder`, which is made; the archive stays as it is.

    What is in it is going to be run, so nothing is gained by distrusting its names.
    """
    if archive_format == "no-archive":
        shutil.copytree(archive, folder)  # a copy: the archive stays free of __pycache__
    elif archive_format == "tgz":
        with tarfile.open(archive) as packed, tempfile.TemporaryDirectory(dir=folder.parent) as top:
            packed.extractall(top, **_only_plain_files())  # noqa: S202 - see above
            (root,) = Path(top).iterdir()
            root.rename(folder)
    else:
        with zipfile.ZipFile(archive) as packed_zip:
            packed_zip.extractall(folder)  # noqa: S202 - see above


def _only_plain_files() -> dict[str, Any]:
    # Python 3.12 warns without a filter; the first releases of 3.10 have none.
    return {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
