"""The folder that a worker loads: an unpacked archive, or a handler file with its other files.

TorchServe makes the same folder of an archive when it registers the model.
"""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.content import MANIFEST, archive_content
from micro_batch_handler.tools.packing.formats import FOLDER, source_date, unpack, write_folder
from micro_batch_handler.tools.packing.inputs import ArchiveInputs

__all__ = ["ModelFiles", "importable", "model_folder", "working_in"]

_FORMATS = {".mar": "default", ".tar.gz": "tgz", ".tgz": "tgz"}


@dataclass(frozen=True)
class ModelFiles:
    """The files that a handler file is served with, each as the archive command takes it."""

    config_file: str | None = None
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    """Files, folders and patterns, with commas between them."""


def model_folder(source: Path, files: ModelFiles | None, private: Path) -> Path:
    """Make the folder, and leave the source as it is.

    Args:
        source: an archive (.mar, .tar.gz, .tgz, or its folder), or a handler file.
        files: a handler file's; an archive has its own.
        private: an empty folder, in which it is made.

    Raises:
        ArchiveError: there is no such file, or TorchServe could not load it.
    """
    style, model = _format_of(source), private / "model"
    if style is None:
        config = ModelArchiverConfig(
            model_name=source.name.partition(".")[0],
            version="1.0",
            handler=str(source),
            **vars(files or ModelFiles()),
        )
        date = source_date()
        inputs = ArchiveInputs.vetted(config, private / "none")
        write_folder(model, archive_content(config, inputs, date), date)
        return model
    if files not in (None, ModelFiles()):
        raise ArchiveError(
            f"{source} is an archive, which has its own files; give none, or a handler file"
        )
    try:
        unpack(source, style, model)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ArchiveError(f"{source} cannot be unpacked: {error}") from error
    if not (model / MANIFEST).is_file():
        raise ArchiveError(f"{source} has no {MANIFEST}, so it is no archive")
    return model


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put the folder first on the import path; afterwards forget what was imported from it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        inside = f"{folder}{os.sep}"
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(inside):
                del sys.modules[name]


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in the model's folder, as TorchServe's worker does."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _format_of(source: Path) -> str | None:
    """The format, by its name in `--archive-format`; None for a handler file."""
    if not source.exists():
        raise ArchiveError(f"{source}: there is no such file or folder")
    if source.is_dir():
        return FOLDER
    for suffix, archive_format in _FORMATS.items():
        if source.name.endswith(suffix):
            return archive_format
    if source.suffix == ".py":
        return None
    raise ArchiveError(
        f"{source} is neither an archive ({', '.join(_FORMATS)}, or a folder) nor a handler file "
        "(.py)"
    )
