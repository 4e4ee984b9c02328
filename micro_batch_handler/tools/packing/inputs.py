"""What goes into an archive: every file and folder of its root, found and vetted before packing."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model_archiver.manifest_components.manifest import RuntimeType
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.model_packaging_utils import MAR_INF, ModelExportUtils, model_handlers

from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.packing.handler_class import micro_batches, refuse_unusable
from micro_batch_handler.tools.packing.handler_file import (
    HandlerName,
    check_handler_file,
    class_names,
    entry_point,
)
from micro_batch_handler.tools.packing.handler_notes import plain_notes, weights_notes, whole_notes
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
class _Item:
    flag: str
    source: Path


@dataclass(frozen=True)
class ArchiveInputs:
    """The vetted inputs of one archive."""

    handler: str
    """As the archiver's copying wants it: the path of the file, or the name of a built-in one."""

    extras: tuple[Path, ...]
    """What `--extra-files` adds to the root: files, and folders with all they hold."""

    notes: tuple[str, ...]
    """What is legal but looks mistaken."""

    @classmethod
    def vetted(cls, config: ModelArchiverConfig, output: Path) -> ArchiveInputs:
        """Find all inputs; raise for the first thing that TorchServe could not load."""
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
        built_in = config.handler in model_handlers
        handler = HandlerName.of(config.handler)
        extras = tuple(_extra_items(config.extra_files or ""))
        files = {
            "--handler": None if built_in else str(handler.file),
            "--model-file": config.model_file,
            "--serialized-file": config.serialized_file,
            "--requirements-file": config.requirements_file,
            "--config-file": config.config_file,
        }
        items = [_Item(flag, Path(path)) for flag, path in files.items() if path]
        for item in items:
            if not item.source.is_file():
                raise ArchiveError(f"{item.flag} {item.source}: there is no such file")
        items += [_Item("--extra-files", path) for path in extras]
        notes = list(_refuse_bad_names(items, output))
        if built_in:
            notes.append(
                f"the built-in handler {config.handler} does not micro-batch; for that, give "
                "--micro-batch"
            )
        else:
            check_handler_file(handler)
            refuse_unusable(handler)
            if micro_batches(entry_point(handler)[1]):
                notes += whole_notes(handler)
        notes += weights_notes(config)
        if config.config_file:
            notes += check_model_config(Path(config.config_file), micro_batched=not built_in)
            if not built_in:
                notes += plain_notes(handler, read_model_config(Path(config.config_file)))
        if config.model_file and len(class_names(Path(config.model_file))) != 1:
            notes.append(
                f"{config.model_file} does not make exactly one class, which BaseHandler needs "
                "where it loads the model by itself"
            )
        return cls(config.handler if built_in else str(handler.file), extras, tuple(notes))


def _extra_items(extra_files: str) -> Iterator[Path]:
    """The root items that `a.txt,folder,*.json` stands for; a folder gives its children."""
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
    """Refuse names that hide a module or meet in the root; yields notes on doubtful ones."""
    seen: dict[str, _Item] = {}
    made = output.resolve()
    for item in items:
        name, where = item.source.name, f"{item.flag} {item.source}"
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
                f"{other.flag} {other.source} and {where} would both be {name} in the archive; "
                "rename one"
            )


def _module_name(path: Path) -> str:
    """The name under which Python would import this, or nothing."""
    if path.is_dir():
        return path.name if (path / "__init__.py").exists() else ""
    return path.name.partition(".")[0] if path.suffix in _MODULE_SUFFIXES else ""
