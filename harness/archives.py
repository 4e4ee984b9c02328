"""Packs a handler as a user of plain torch-model-archiver would."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

import micro_batch_handler

__all__ = ["pack"]

HANDLERS = Path(__file__).parent / "handlers"

Format = Literal["zip-store", "no-archive"]


def pack(
    name: str,
    handler: str | Path,
    config: Mapping[str, Any] | None,
    into: Path,
    archive_format: Format = "zip-store",
    helpers: Mapping[str, Path] | None = None,
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
    """
    # Imported late, so that tests can be collected, and skipped, where TorchServe is missing.
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging import generate_model_archive

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
        config_file = Path(folder, "model-config.yaml")
        if config is not None:
            config_file.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        generate_model_archive(
            ModelArchiverConfig(
                model_name=name,
                handler=str(handler if isinstance(handler, Path) else HANDLERS / f"{handler}.py"),
                version="1.0",
                extra_files=str(extra),
                config_file=None if config is None else str(config_file),
                export_path=str(into),
                archive_format=archive_format,
            )
        )
    return into / (name if archive_format == "no-archive" else f"{name}.mar")
