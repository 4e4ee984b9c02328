"""Archives that know nothing of this package, served as they are and wrapped, side by side."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from harness.archives import HANDLERS
from harness.model import Model
from harness.torchserve import TorchServe
from micro_batch_handler.__main__ import main

__all__ = ["BROUGHT", "STAND_INS", "Packed", "both", "pack"]

BROUGHT = HANDLERS / "brought"
"""Handlers as users bring them."""

STAND_INS = HANDLERS.parent / "stand_ins"
"""Packages that TorchServe's own handlers import, as far as they use them."""


class Packed(Model):
    """An archive that is there already, registered inside a `with` statement."""

    def __init__(self, server: TorchServe, archive: Path, **registration: Any) -> None:
        self.server = server
        self.name = archive.stem
        self.archive = archive
        # The wrapped one's manifest still has the plain one's name.
        self._registration = {**registration, "model_name": self.name}


@contextmanager
def both(
    server: TorchServe,
    name: str,
    handler: str,
    files: Mapping[str, Path] | None = None,
    *,
    model_file: Path | None = None,
    weights: Path | None = None,
    section: Mapping[str, Any],
    plain_batch: int,
    batch: int,
) -> Iterator[tuple[Model, Model]]:
    """The model as torch-model-archiver packs it, and the same archive wrapped.

    Args:
        server: where.
        name: of the archive; the wrapped one's ends in `-wrapped`.
        handler: as `--handler` has it.
        files: more files and folders by their names in the archive.
        model_file: as `--model-file` has it.
        weights: as `--serialized-file` has it.
        section: the `micro_batching:` section, which a plain handler does not read.
        plain_batch: the batch size of the plain one: 1 for a handler that cannot batch.
        batch: of the wrapped one.
    """
    plain = pack(server.model_store, name, handler, files or {}, model_file, weights, section)
    wrapped = plain.with_name(f"{name}-wrapped.mar")
    assert main(["wrap", str(plain), "--output", str(wrapped)]) == 0
    models = [
        Packed(server, plain, batch_size=plain_batch, max_batch_delay=100),
        Packed(server, wrapped, batch_size=batch, max_batch_delay=100),
    ]
    # One of the two loads while the other does: a worker takes seconds to import PyTorch.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Model.__enter__, models))
        try:
            yield models[0], models[1]
        finally:
            list(pool.map(lambda model: model.__exit__(None, None, None), models))


def pack(
    store: Path,
    name: str,
    handler: str,
    files: Mapping[str, Path],
    model_file: Path | None,
    weights: Path | None,
    section: Mapping[str, Any],
) -> Path:
    # Imported late, so that tests can be collected, and skipped, where TorchServe is missing.
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging import generate_model_archive

    with tempfile.TemporaryDirectory(prefix="ts-brought-") as folder:
        extra = Path(folder, "extra")
        extra.mkdir()
        for file_name, source in files.items():
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, extra / file_name)
        config = Path(folder, "model-config.yaml")
        config.write_text(yaml.safe_dump({"micro_batching": dict(section)}), encoding="utf-8")
        extras: Sequence[str] = [str(extra)] if files else []
        generate_model_archive(
            ModelArchiverConfig(
                model_name=name,
                handler=handler,
                version="1.0",
                extra_files=",".join(extras) or None,
                model_file=None if model_file is None else str(model_file),
                serialized_file=None if weights is None else str(weights),
                config_file=str(config),
                export_path=str(store),
            )
        )
    return store / f"{name}.mar"
