"""Packs a handler as a user of plain torch-model-archiver would, with this package or without."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

import micro_batch_handler

__all__ = ["BROUGHT", "HANDLERS", "STAND_INS", "pack", "pack_plain"]

HANDLERS = Path(__file__).parent / "handlers"

BROUGHT = HANDLERS / "brought"
"""Handlers as users bring them."""

STAND_INS = HANDLERS.parent / "stand_ins"
"""Packages that TorchServe's own handlers import, as far as they use them."""

Format = Literal["zip-store", "no-archive"]


def pack(
    name: str,
    handler: str | Path,
    config: Mapping[str, Any] | None,
    into: Path,
    archive_format: Format = "zip-store",
    helpers: Mapping[str, Path] | None = None,
    version: str = "1.0",
) -> Path:
    """Make an archive; gives back the .mar file, or the folder for `no-archive`.

    Args:
        name: the model's; no other archive of this name may be made at the same time, because the
            archiver stages in one folder of this name.
        handler: a file in handlers/, without `.py`; or the path of any file.
        config: the content of model-config.yaml; None for no such file.
        into: the folder to write to.
        archive_format: the archiver's.
        helpers: files that the handler imports, by their name in the archive; the stages in
            handlers/ if there are none.
        version: of the model.
    """
    with tempfile.TemporaryDirectory(prefix="ts-pack-") as folder:
        # The archiver puts a folder's content at the root: the package goes one level down.
        extra = Path(folder, "extra")
        shutil.copytree(
            Path(micro_batch_handler.__file__).parent,
            extra / "micro_batch_handler",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        if helpers is None:
            helpers = {helper.name: helper for helper in HANDLERS.glob("*_stages.py")}
        for file_name, helper in helpers.items():
            shutil.copy(helper, extra / file_name)
        return _archive(
            name,
            str(handler if isinstance(handler, Path) else HANDLERS / f"{handler}.py"),
            config,
            into,
            extra_files=str(extra),
            archive_format=archive_format,
            version=version,
        )


def pack_plain(
    name: str,
    handler: str,
    config: Mapping[str, Any],
    into: Path,
    files: Mapping[str, Path],
    **more: str,
) -> Path:
    """Make an archive without this package.

    Args:
        name: as for `pack`.
        handler: as `--handler` has it.
        config: as for `pack`.
        into: as for `pack`.
        files: more files and folders by their names in the archive.
        more: for the archiver: model_file, serialized_file.
    """
    with tempfile.TemporaryDirectory(prefix="ts-pack-") as folder:
        for file_name, source in files.items():
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(folder, file_name))
        return _archive(name, handler, config, into, extra_files=folder if files else None, **more)


def _archive(
    name: str, handler: str, config: Mapping[str, Any] | None, into: Path, **more: str | None
) -> Path:
    # Imported late, so that tests can be collected, and skipped, where TorchServe is missing.
    from model_archiver import model_packaging
    from model_archiver.model_archiver_config import ModelArchiverConfig

    with tempfile.TemporaryDirectory(prefix="ts-config-") as folder:
        config_file = Path(folder, "model-config.yaml")
        if config is not None:
            config_file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        settings = ModelArchiverConfig(
            model_name=name,
            handler=handler,
            config_file=None if config is None else str(config_file),
            export_path=str(into),
            **{"version": "1.0", **more},
        )
        # One at a time, of all processes and threads: among temporary files it replaces the folder
        # of this name. Closing the file lets the next one in.
        with Path(model_packaging.__file__).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            model_packaging.generate_model_archive(settings)
    return into / (name if more.get("archive_format") == "no-archive" else f"{name}.mar")
