"""Every file of an archive: its name there, and where its bytes come from.

Like torch-model-archiver, which names the files and makes the manifest, but nothing is copied
before it is packed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Union

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import MANIFEST_FILE_NAME, MAR_INF, ModelExportUtils

import micro_batch_handler
from micro_batch_handler.tools.packing.inputs import ArchiveInputs, is_packed_folder

__all__ = ["MANIFEST", "Content", "archive_content", "package_content"]

Content = Mapping[str, Union[Path, bytes]]
"""By the name in the archive, in order: the file, or the bytes themselves."""

MANIFEST = f"{MAR_INF}/{MANIFEST_FILE_NAME}"

_NOT_SERVED = ("__main__.py", "tools", "__pycache__", ".*")
"""Parts of this package that a server does not need: the commands, and what editors leave."""


def archive_content(config: ModelArchiverConfig, inputs: ArchiveInputs, date: int) -> Content:
    """All files of the archive that the flags ask for.

    Raises:
        OSError: a folder cannot be read.
    """
    content = {MANIFEST: _manifest(config, date), **package_content()}
    for path in inputs.root:
        content.update(_below(path) if path.is_dir() else {path.name: path})
    return dict(sorted(content.items()))


def package_content() -> dict[str, Path | bytes]:
    """The files of this package that an archive carries."""
    folder = Path(micro_batch_handler.__file__).parent
    return {
        name: path
        for name, path in _below(folder)
        if not any(fnmatch(part, kind) for part in name.split("/") for kind in _NOT_SERVED)
    }


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files in a folder and below, links followed, by names that begin with the folder's."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if is_packed_folder(name)]
        for path in (Path(root, name) for name in files):
            yield path.relative_to(folder.parent).as_posix(), path


def _manifest(config: ModelArchiverConfig, date: int) -> bytes:
    """The archiver's manifest, with a fixed time in place of the time that it was made."""
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    manifest["createdOn"] = time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(date))
    return json.dumps(manifest, indent=2).encode()
