"""A .mar file that is there: micro-batching put in front of its handler, or taken out again."""

from __future__ import annotations

import copy
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_archiver.model_packaging_utils import model_handlers

from micro_batch_handler.errors import ArchiveError, MicroBatchError
from micro_batch_handler.tools.packing.content import MANIFEST, Content, package_content
from micro_batch_handler.tools.packing.formats import add_to_zip, source_date
from micro_batch_handler.tools.packing.front import Front, front_of
from micro_batch_handler.tools.packing.handler_class import read_handler, refuse_unshared
from micro_batch_handler.tools.packing.handler_file import split_handler
from micro_batch_handler.tools.packing.inputs import PACKAGE
from micro_batch_handler.tools.packing.model_config import check_model_config, read_model_config
from micro_batch_handler.tools.packing.output import written_beside

__all__ = ["MarFile"]

_KEPT = f"{MANIFEST}.unwrapped"
"""The manifest as it was before wrapping; every wrapped archive has it."""


class MarFile:
    """A .mar file that TorchServe could serve.

    Raises:
        ArchiveError: there is no such file, or it is no .mar file.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ArchiveError(f"{path}: there is no such file")
        if not zipfile.is_zipfile(path):
            raise ArchiveError(f"{path} is not a .mar file (a zip archive); only these are wrapped")
        self._path = path
        with zipfile.ZipFile(path) as archive:
            self._names = archive.namelist()
        if MANIFEST not in self._names:
            raise ArchiveError(f"{path} has no {MANIFEST}, so it is no model archive")
        try:
            self._manifest: dict[str, Any] = json.loads(self._read(MANIFEST))
            self._handler = str(self._manifest["model"]["handler"])
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(
                f"{path}: {MANIFEST} names no handler; pack the model again"
            ) from error

    def wrap(self, output: Path) -> Sequence[str]:
        """Write the archive with micro-batching in front of its handler; return notes.

        Args:
            output: the file to write, which may be the archive's own.

        Raises:
            ArchiveError: it has micro-batching already, or its handler cannot be taken over.
        """
        if any(name.startswith(f"{PACKAGE}/") for name in self._names):
            raise ArchiveError(
                f"{self._path} has the package {PACKAGE} in it already; to renew it, first "
                f"--unwrap, or pack it again"
            )
        try:
            config = self._model_config()
            front, notes = self._front(config), self._config_notes(config)
        except MicroBatchError as error:  # it names a file in the archive
            raise ArchiveError(f"{self._path}: {error}") from error
        if front.name in self._names:
            raise ArchiveError(f"{self._path} has a file {front.name} of its own; rename it")
        model = {**self._manifest["model"], "handler": front.name}
        manifest = json.dumps({**self._manifest, "model": model}, indent=2).encode()
        front_file = {front.name: front.text.encode(), _KEPT: self._read(MANIFEST)}
        added = dict(sorted({**package_content(), **front_file}.items()))
        self._rewrite(output, self._names, manifest, added)
        return [front.note, *notes]

    def unwrap(self, output: Path) -> Sequence[str]:
        """Write the archive as it was before `wrap`; there is nothing to note.

        Raises:
            ArchiveError: it is not wrapped.
        """
        if _KEPT not in self._names:
            raise ArchiveError(f"{self._path} is not wrapped (it has no {_KEPT})")
        added = (_KEPT, self._handler)
        names = [
            name for name in self._names if name not in added and not name.startswith(f"{PACKAGE}/")
        ]
        self._rewrite(output, names, self._read(_KEPT), {})
        return []

    def _front(self, config: Mapping[str, object] | None) -> Front:
        if self._handler in model_handlers:
            return front_of(self._handler)
        file = split_handler(self._handler)[0].name
        if file not in self._names:
            raise ArchiveError(
                f"{self._path} has no {file}, which its manifest names as the handler"
            )
        handler = read_handler(self._handler, self._read(file))
        refuse_unshared(handler, config or {})
        return front_of(handler)

    def _model_config(self) -> Mapping[str, object] | None:
        name = self._manifest["model"].get("configFile")
        if name not in self._names:
            return None
        return read_model_config(Path(name), self._read(name))

    def _config_notes(self, config: Mapping[str, object] | None) -> list[str]:
        """Refuse settings that cannot work with micro-batching; notes on the others."""
        if config is None:
            return []
        return check_model_config(Path(self._manifest["model"]["configFile"]), config)

    def _read(self, name: str) -> bytes:
        with zipfile.ZipFile(self._path) as archive:
            return archive.read(name)

    def _rewrite(self, output: Path, names: Sequence[str], manifest: bytes, added: Content) -> None:
        """Copy these entries, with another manifest, and add more; complete or not at all."""
        with written_beside(output) as beside:
            with zipfile.ZipFile(self._path) as old, zipfile.ZipFile(beside, "x") as new:
                for name in names:
                    entry = copy.copy(old.getinfo(name))  # writing changes it
                    if name == MANIFEST:
                        new.writestr(entry, manifest)
                        continue
                    with old.open(name) as source, new.open(entry, "w") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
                add_to_zip(new, added, source_date(), zipfile.ZIP_DEFLATED)
            beside.replace(output)
