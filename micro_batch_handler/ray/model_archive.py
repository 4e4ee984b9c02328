"""An archive as it is deployed: its name, version and settings, read without unpacking it."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.content import MANIFEST

__all__ = ["ModelArchive"]

DEFAULT_BATCH_DELAY_MS = 100
"""TorchServe's own `maxBatchDelay`."""

TORCHSERVES = (
    "asyncCommunication",
    "continuousBatching",
    "parallelType",
    "sequenceBatching",
    "sequenceMaxIdleMSec",
    "torchrun",
)
"""Keys of handlers that count on what only TorchServe does."""


@dataclass(frozen=True)
class ModelArchive:
    """What is known of an archive before it is loaded."""

    path: Path
    name: str
    version: str
    model_yaml: Mapping[str, Any] = field(default_factory=dict)
    """Its model-config.yaml."""
    requirements: str = ""
    """Its requirements file, as a name inside the archive; empty if it has none."""

    @classmethod
    def read(cls, path: Path) -> ModelArchive:
        """Read manifest and settings.

        Raises:
            ArchiveError: there is no archive, it cannot be read, or it needs TorchServe.
        """
        try:
            described = json.loads(_member(path, MANIFEST))["model"]
            config_file = described.get("configFile")
            settings = yaml.safe_load(_member(path, config_file)) if config_file else None
            name, version = str(described["modelName"]), str(described["modelVersion"])
        except (OSError, KeyError, ValueError, yaml.YAMLError, zipfile.BadZipFile) as error:
            why = error if isinstance(error, OSError) else f"it is no archive ({error!r})"
            raise ArchiveError(f"{path} cannot be deployed: {why}") from error
        if settings is not None and not isinstance(settings, Mapping):
            raise ArchiveError(f"{path}: {config_file} must be a mapping of keys")
        needed = [key for key in TORCHSERVES if (settings or {}).get(key)]
        if needed:
            raise ArchiveError(
                f"{path} cannot be deployed: its {config_file} sets {', '.join(needed)}, which Ray "
                f"Serve has nothing like. Remove it, or serve this archive with TorchServe"
            )
        requirements = str(described.get("requirementsFile") or "")
        return cls(path.resolve(), name, version, settings or {}, requirements)

    @property
    def key(self) -> str:
        """Tells models and versions apart."""
        return f"{self.name}/{self.version}"

    @property
    def batch_size(self) -> int:
        """The most requests of one batch."""
        return int(self.model_yaml.get("batchSize", 1))

    @property
    def batch_delay_s(self) -> float:
        """How long the first request of a batch waits for others."""
        return float(self.model_yaml.get("maxBatchDelay", DEFAULT_BATCH_DELAY_MS)) / 1000

    @property
    def workers(self) -> tuple[int, int]:
        """The fewest and the most workers."""
        least = max(1, int(self.model_yaml.get("minWorkers", 1)))
        return least, max(least, int(self.model_yaml.get("maxWorkers", least)))


def _member(path: Path, name: str) -> bytes:
    """A file of an archive: a zip, a tar or a folder."""
    if path.is_dir():
        return (path / name).read_bytes()
    if not zipfile.is_zipfile(path) and tarfile.is_tarfile(path):
        with tarfile.open(path) as packed:
            # Everything lies under one folder, which TorchServe drops.
            for entry in packed:
                if entry.name.partition("/")[2] == name and (found := packed.extractfile(entry)):
                    return found.read()
        raise KeyError(name)
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)
