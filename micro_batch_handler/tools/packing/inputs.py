"""The files and folders that go into the root of an archive, found and vetted before packing."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from model_archiver.manifest_components.manifest import RuntimeType
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import MAR_INF, ModelExportUtils, model_handlers

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.handler_class import (
    micro_batches,
    packing_notes,
    read_handler,
    refuse_unshared,
)
from micro_batch_handler.tools.packing.handler_file import ModuleNames, parse, split_handler
from micro_batch_handler.tools.packing.model_config import check_model_config, read_model_config

__all__ = ["PACKAGE", "ArchiveInputs", "is_packed_folder"]

PACKAGE = "micro_batch_handler"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
"""TorchServe takes any version, and cuts the addresses of its requests at each slash."""

_NEVER_PACKED = {"__MACOSX", "__pycache__"}  # as the archiver has it, in a local variable

_HIDES_FROM_WORKER = {"ts": "TorchServe", "torch": "PyTorch", "numpy": "NumPy", "yaml": "PyYAML"}
"""Modules that the worker imports; the archive's root comes before them on its import path."""

_MODULE_SUFFIXES = {".py", ".pyc", ".so", ".pyd"}


def is_packed_folder(name: str) -> bool:
    """Whether the archiver packs a folder of this name, anywhere in an archive."""
    return bool(ModelExportUtils.directory_filter(name, _NEVER_PACKED))


@dataclass(frozen=True)
class ArchiveInputs:
    """The vetted inputs of one archive."""

    root: tuple[Path, ...]
    """Files, and folders with all that is below them, for the archive's root."""

    notes: tuple[str, ...]
    """Notes on what is legal but looks like a mistake."""

    @classmethod
    def vetted(cls, config: ModelArchiverConfig, output: Path) -> ArchiveInputs:
        """Find all inputs.

        Raises:
            ArchiveError: a file is missing, or TorchServe could not load it; of several reasons
                the first.
            ConfigError: a setting in model-config.yaml cannot work, by itself or with the handler.
        """
        _refuse_flags(config)
        items = list(_items(config))
        notes = list(_refuse_bad_names(items, output))
        handler = read_handler(config.handler)
        model_config: Mapping[str, object] = {}
        if config.config_file:
            path = Path(config.config_file)
            model_config = read_model_config(path)
            is_built_in = isinstance(handler, str)
            notes += check_model_config(path, model_config, micro_batched=not is_built_in)
        if not isinstance(handler, str) and micro_batches(handler):
            refuse_unshared(handler, model_config)
        notes += packing_notes(handler, config, model_config)
        if config.model_file:
            path = Path(config.model_file)
            if len(ModuleNames.of(parse(path, path.read_bytes())).classes) != 1:
                notes.append(
                    f"{config.model_file} does not make exactly one class, which BaseHandler needs "
                    "where it loads the model by itself"
                )
        return cls(tuple(item.source for item in items), tuple(notes))


class _Item(NamedTuple):
    """A file or folder of the archive's root, and the flag that brings it."""

    flag: str
    source: Path

    def __str__(self) -> str:
        return f"{self.flag} {self.source}"


def _refuse_flags(config: ModelArchiverConfig) -> None:
    if config.runtime == RuntimeType.LSP.value:
        raise ArchiveError(
            "--runtime LSP is for handlers in C++, which this package cannot serve; "
            "use --runtime python, or torch-model-archiver"
        )
    if not _VERSION.fullmatch(config.version):
        raise ArchiveError(
            f"--version {config.version!r} must be letters, digits and . _ - +, and begin with "
            f"a letter or digit: it is a part of the address /predictions/"
            f"{config.model_name}/VERSION"
        )


def _items(config: ModelArchiverConfig) -> Iterator[_Item]:
    extras = [_Item("--extra-files", path) for path in _extra_files(config.extra_files or "")]
    is_built_in = config.handler in model_handlers
    files = {
        "--handler": None if is_built_in else split_handler(config.handler)[0],
        "--model-file": config.model_file,
        "--serialized-file": config.serialized_file,
        "--requirements-file": config.requirements_file,
        "--config-file": config.config_file,
    }
    for item in (_Item(flag, Path(path)) for flag, path in files.items() if path):
        if not item.source.is_file():
            raise ArchiveError(f"{item}: there is no such file")
        yield item
    yield from extras


def _extra_files(extra_files: str) -> Iterator[Path]:
    """The paths that `a.txt,folder,*.json` stands for; a folder gives its children."""
    for pattern in (part.strip() for part in extra_files.split(",")):
        if not pattern:
            continue
        # A name that exists is meant as it is, even if it looks like a pattern.
        found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern))  # noqa: PTH207 - pathlib has no absolute patterns
        if not found:
            raise ArchiveError(f"--extra-files {pattern}: there is no such file or folder")
        for path in map(Path, found):
            if path.is_dir():
                children = sorted(path.iterdir())
                yield from (c for c in children if not c.is_dir() or is_packed_folder(c.name))
            else:
                yield path


def _refuse_bad_names(items: list[_Item], output: Path) -> Iterator[str]:
    """Refuse names that hide a module or meet in the root; yield notes on doubtful ones."""
    seen: dict[str, _Item] = {}
    made = output.resolve()
    for item in items:
        name, where = item.source.name, str(item)
        if not item.source.exists():  # a link into nowhere, in a folder of extra files
            raise ArchiveError(f"{where}: there is no such file or folder")
        module = _module_name(item.source)
        if PACKAGE in (name, module):
            raise ArchiveError(
                f"{where} would hide the package {PACKAGE}, which this command adds by itself; "
                "rename it, or leave it out"
            )
        if name == MAR_INF:
            raise ArchiveError(f"{where}: TorchServe keeps its manifest under that name; rename it")
        if module in _HIDES_FROM_WORKER:
            raise ArchiveError(
                f"{where} would hide {_HIDES_FROM_WORKER[module]} ({module}) from the worker; "
                "rename it"
            )
        if module in sys.stdlib_module_names:
            yield f"{where} hides Python's own module {module} from the worker; better rename it"
        resolved = item.source.resolve()
        if resolved == made or resolved in made.parents:
            raise ArchiveError(
                f"{where} holds {output}, which is what is being made; "
                "give another --export-path, or name the extra files one by one"
            )
        other = seen.setdefault(name, item)
        if not other.source.samefile(item.source):
            raise ArchiveError(
                f"{other} and {where} would both be {name} in the archive; rename one"
            )


def _module_name(path: Path) -> str:
    """The name under which Python would import this, or nothing."""
    if path.is_dir():
        return path.name if (path / "__init__.py").exists() else ""
    return path.name.partition(".")[0] if path.suffix in _MODULE_SUFFIXES else ""
