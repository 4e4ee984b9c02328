"""A .mar file: its manifest, and another one made of it with some entries more or less."""

from __future__ import annotations

import copy
import json
import shutil
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_archiver.model_packaging_utils import model_handlers

from micro_batch_handler.errors import ArchiveError, MicroBatchError
from micro_batch_handler.tools.packing.formats import add_to_zip, packed_files, source_date
from micro_batch_handler.tools.packing.handler_file import HandlerName
from micro_batch_handler.tools.packing.inputs import PACKAGE
from micro_batch_handler.tools.packing.model_config import check_model_config
from micro_batch_handler.tools.packing.staging import copy_package
from micro_batch_handler.tools.packing.take_over import Front, front_of

__all__ = ["MarFile", "unwrapped", "wrapped"]

_MANIFEST = "MAR-INF/MANIFEST.json"

_KEPT = "MAR-INF/MANIFEST.json.unwrapped"
"""The manifest as it was before wrapping; what is wrapped has it."""


class MarFile:
    """An archive that is there.

    Raises:
        ArchiveError: it is not a .mar file that TorchServe could serve.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ArchiveError(f"{path}: there is no such file")
        if not zipfile.is_zipfile(path):
            raise ArchiveError(f"{path} is not a .mar file (a zip archive); only these are wrapped")
        self.path = path
        with zipfile.ZipFile(path) as archive:
            self.names = archive.namelist()
            if _MANIFEST not in self.names:
                raise ArchiveError(f"{path} has no {_MANIFEST}, so it is no model archive")
            self.manifest = _parse(path, archive.read(_MANIFEST))
        self.handler = str(self.manifest["model"]["handler"])
        """As the manifest names it: a file, and after a colon perhaps a function."""

    @property
    def is_wrapped(self) -> bool:
        """Whether `wrapped` made it."""
        return _KEPT in self.names

    def copy(self, name: str, target: Path) -> Path:
        """Write one entry to a file."""
        with zipfile.ZipFile(self.path) as archive, archive.open(name) as source:
            target.write_bytes(source.read())
        return target


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(text)
        manifest["model"]["handler"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path}: {_MANIFEST} names no handler; pack the model again") from error
    return manifest


def wrapped(mar: MarFile, output: Path, folder: Path) -> Sequence[str]:
    """Write the archive with micro-batching in front of its handler; gives back notes.

    Args:
        mar: the archive.
        output: the file to write, which may be the archive's own.
        folder: an empty one to work in.

    Raises:
        ArchiveError: it has micro-batching already, or its handler cannot be taken over.
    """
    if any(name.startswith(f"{PACKAGE}/") for name in mar.names):
        raise ArchiveError(
            f"{mar.path} has the package {PACKAGE} in it already; to renew it, first --unwrap, or "
            f"pack it again"
        )
    try:
        front, notes = _front(mar, folder), _checked_config(mar, folder)
    except MicroBatchError as error:  # of a file that was taken out to look at it
        raise ArchiveError(f"{mar.path}: {error}".replace(f"{folder}/", "")) from error
    if front.name in mar.names:
        raise ArchiveError(f"{mar.path} has a file {front.name} of its own; rename it")
    added = folder / "added"
    copy_package(added)
    (added / front.name).write_text(front.text, encoding="utf-8")
    manifest = {**mar.manifest, "model": {**mar.manifest["model"], "handler": front.name}}
    changed = {_MANIFEST: json.dumps(manifest, indent=2).encode()}

    def add(archive: zipfile.ZipFile) -> None:
        (added / "MAR-INF").mkdir()
        mar.copy(_MANIFEST, added / _KEPT)
        names = packed_files(added)
        add_to_zip(archive, added, names, source_date(), zipfile.ZIP_DEFLATED)

    _rewrite(mar, output, mar.names, changed, add)
    return [front.note.replace(f"{folder}/", ""), *notes]


def unwrapped(mar: MarFile, output: Path) -> Sequence[str]:
    """Write the archive as it was before `wrapped`.

    Raises:
        ArchiveError: `wrapped` did not make it.
    """
    if not mar.is_wrapped:
        raise ArchiveError(f"{mar.path} is not wrapped (it has no {_KEPT})")
    with zipfile.ZipFile(mar.path) as archive:
        changed = {_MANIFEST: archive.read(_KEPT)}
    ours = {_KEPT, mar.handler}
    names = [name for name in mar.names if name not in ours and not name.startswith(f"{PACKAGE}/")]
    _rewrite(mar, output, names, changed)
    return []


def _front(mar: MarFile, folder: Path) -> Front:
    handler = mar.handler
    if handler in model_handlers:
        return front_of(handler)
    named = HandlerName.of(handler)
    file = named.file.name
    if file not in mar.names:
        raise ArchiveError(f"{mar.path} has no {file}, which its manifest names as the handler")
    path = str(mar.copy(file, folder / file))
    return front_of(f"{path}:{named.function}" if named.function else path)


def _checked_config(mar: MarFile, folder: Path) -> list[str]:
    """Refuse settings that cannot work with micro-batching; notes on the others."""
    name = mar.manifest["model"].get("configFile")
    if name not in mar.names:
        return []
    notes = check_model_config(mar.copy(name, folder / name))
    return [note.replace(f"{folder}/", "") for note in notes]


def _rewrite(
    mar: MarFile,
    output: Path,
    names: Sequence[str],
    changed: Mapping[str, bytes],
    add: Callable[[zipfile.ZipFile], None] = lambda _: None,
) -> None:
    """Copy these entries, some with other bytes, and add more; complete or not at all."""
    beside = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        with zipfile.ZipFile(mar.path) as old, zipfile.ZipFile(beside, "x") as new:
            for name in names:
                entry = copy.copy(old.getinfo(name))  # writing changes it
                if name in changed:
                    new.writestr(entry, changed[name])
                    continue
                with old.open(name) as source, new.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            add(new)
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)
