"""The content of an archive, collected in a private folder by torch-model-archiver's own code."""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import ModelExportUtils

import micro_batch_handler
from micro_batch_handler.tools.packing.inputs import PACKAGE, ArchiveInputs

__all__ = ["copy_package", "staged"]

_NOT_SERVED = ("__main__.py", "tools", "__pycache__", ".*")
"""What of this package a server has no use for: the commands, and what editors leave behind."""


@contextmanager
def staged(config: ModelArchiverConfig, inputs: ArchiveInputs, date: int) -> Iterator[Path]:
    """Give a folder with everything that goes into the archive, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="micro-batch-archive-") as private:
        extras = Path(private, "extras")
        extras.mkdir()
        _collect_extras(extras, inputs)
        # The archiver stages in <temp folder>/<model name>, and removes what is there: two builds
        # of one name would meet. So it gets a temp folder of its own.
        with _temp_folder(Path(private, "staged")):
            folder = ModelExportUtils.copy_artifacts(
                config.model_name,
                config.runtime,
                model_file=config.model_file,
                serialized_file=config.serialized_file,
                handler=inputs.handler,
                # One folder, which the archiver lays flat into the root. It takes a pattern here.
                extra_files=glob.escape(str(extras)),
                requirements_file=config.requirements_file,
                config_file=config.config_file,
            )
        # In place, this format only adds the manifest; packing is done elsewhere.
        ModelExportUtils.archive(
            str(Path(folder).parent),
            config.model_name,
            folder,
            _manifest(config, date),
            "no-archive",
        )
        yield Path(folder)


def copy_package(folder: Path) -> None:
    """Put this package, as an archive carries it, into the folder."""
    package = Path(micro_batch_handler.__file__).parent
    shutil.copytree(package, folder / PACKAGE, ignore=shutil.ignore_patterns(*_NOT_SERVED))


def _collect_extras(folder: Path, inputs: ArchiveInputs) -> None:
    copy_package(folder)
    for name, source in {path.name: path for path in inputs.extras}.items():
        # Links: the archiver copies what they lead to, and weights are copied once only.
        (folder / name).symlink_to(source.resolve())


def _manifest(config: ModelArchiverConfig, date: int) -> str:
    """The archiver's manifest, with the time it was made replaced by a fixed one."""
    manifest = json.loads(ModelExportUtils.generate_manifest_json(config))
    manifest["createdOn"] = time.strftime("%d/%m/%Y %H:%M:%S", time.gmtime(date))
    return json.dumps(manifest, indent=2)


@contextmanager
def _temp_folder(folder: Path) -> Iterator[None]:
    folder.mkdir()
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
