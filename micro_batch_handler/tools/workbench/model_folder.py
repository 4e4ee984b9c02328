"""The folder that a worker loads: an unpacked archive, or a handler file with its other files.

TorchServe makes the same folder of an archive when it registers the model.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from model_archiver.model_archiver_config import ModelArchiverConfig

from micro_batch_handler.config import SECTION
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.content import MANIFEST, archive_content
from micro_batch_handler.tools.packing.formats import FOLDER, source_date, unpack, write_folder
from micro_batch_handler.tools.packing.front import front_of
from micro_batch_handler.tools.packing.handler_class import read_handler
from micro_batch_handler.tools.packing.handler_file import split_handler
from micro_batch_handler.tools.packing.inputs import ArchiveInputs
from micro_batch_handler.tools.packing.model_config import read_model_config

__all__ = [
    "ModelFiles",
    "bring",
    "environment",
    "importable",
    "model_folder",
    "set_share_model",
    "working_in",
]

_OURS = re.compile(rb"^\s*(from|import) micro_batch_handler\b", re.MULTILINE)

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


def bring(folder: Path) -> str | None:
    """Put micro-batching in front of the folder's handler, as `wrap` does for an archive.

    Returns:
        A note on it; None if the handler's file imports this package, and is left as it is.

    Raises:
        ArchiveError: the handler cannot be taken over; the message says what to change in it.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    named = str(manifest["model"]["handler"])
    file = folder / split_handler(named)[0].name
    source = file.read_bytes() if file.is_file() else None
    if source is not None and _OURS.search(source):
        return None
    front = front_of(read_handler(named, source))
    (folder / front.name).write_text(front.text, encoding="utf-8")
    manifest["model"]["handler"] = front.name
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return front.note


def set_share_model(folder: Path, *, shares: bool) -> None:
    """Let the folder's model-config.yaml say whether the model is shared."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    name = manifest["model"].setdefault("configFile", "model-config.yaml")
    config: dict[str, Any] = {}
    if (folder / name).exists():
        config = dict(read_model_config(folder / name))
    config[SECTION] = {**(config.get(SECTION) or {}), "share_model": shares}
    for path, text in ((MANIFEST, json.dumps(manifest)), (name, yaml.safe_dump(config))):
        (folder / path).unlink(missing_ok=True)  # it may be a link to the file of another folder
        (folder / path).write_text(text, encoding="utf-8")


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


@contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """In the body, variables that are missing have these values; afterwards all are as before."""
    before = dict(os.environ)
    os.environ.update({**defaults, **before})
    try:
        yield
    finally:
        # A worker that shares its model hides the GPU from itself.
        for name in {*defaults, "CUDA_VISIBLE_DEVICES"}:
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})


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
