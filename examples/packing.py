"""Packs an example: model_store/NAME.mar, from installed packages only, and only if it is old."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["ROOT", "Example", "build", "folder_of", "main"]

ROOT = Path(__file__).resolve().parent.parent
MODEL_STORE = ROOT / "model_store"


@dataclass(frozen=True)
class Example:
    """What goes into an archive."""

    name: str
    """Of the archive, and of the model that it serves."""
    handler: Path
    config: Path
    """model-config.yaml."""
    stage: Callable[[Path], Mapping[str, Path]]
    """Lays out in a folder what the archive needs besides, and makes what must be made; gives
    back more options of the archiver: --model-file, --serialized-file, --extra-files."""
    inputs: Iterable[Path] = ()
    """More files whose change calls for a new archive."""

    @property
    def archive(self) -> Path:
        """Where it is packed to."""
        return MODEL_STORE / f"{self.name}.mar"

    @property
    def is_fresh(self) -> bool:
        """Whether no input is newer than the archive."""
        if not self.archive.exists():
            return False
        built = self.archive.stat().st_mtime
        code = [*self.handler.parent.glob("*.py"), Path(__file__), self.config]
        package = (ROOT / "micro_batch_handler").rglob("*.py")  # the archive carries it
        return all(path.stat().st_mtime <= built for path in [*code, *package, *self.inputs])


def main(example_of: Callable[[str], Example], variants: Mapping[str, str] | None = None) -> int:
    """The command: build what is missing or old; gives back the archiver's exit status.

    Args:
        example_of: the example in one of its variants.
        variants: what each is, by its name; the first is built if none is asked for. None: there
            is only one, and `example_of` gets an empty name.
    """
    variants = variants or {"": ""}
    parser = argparse.ArgumentParser(
        description="Pack the example into model_store/, from installed packages only",
        epilog="; ".join(f"{name}: {what}" for name, what in variants.items() if name),
    )
    parser.add_argument("--force", action="store_true", help="build even if it is up to date")
    if len(variants) > 1:
        parser.add_argument("--variant", choices=variants, help="of the model; see below")
    options = parser.parse_args()
    example = example_of(getattr(options, "variant", None) or next(iter(variants)))
    shown = example.archive.relative_to(ROOT)
    if example.is_fresh and not options.force:
        sys.stdout.write(f"{shown} is up to date\n")
        return 0
    status = build(example)
    if not status:
        sys.stdout.write(f"Packed {shown} ({example.archive.stat().st_size / 1e6:.0f} MB)\n")
    return status


def build(example: Example) -> int:
    """Pack it; gives back the archiver's exit status, and 0 if all is well.

    It packs into a folder beside the archive, so that a half-made one never has its name.
    """
    example.archive.parent.mkdir(exist_ok=True)
    # Hidden, because `load_models=all` takes every other folder of the model store for a model.
    with tempfile.TemporaryDirectory(dir=example.archive.parent, prefix=".build-") as folder:
        staging = Path(folder, "stage")
        staging.mkdir()
        options = {
            "--model-name": example.name,
            "--version": "1.0",
            "--handler": example.handler,
            "--config-file": example.config,
            "--export-path": folder,
            **example.stage(staging),
        }
        command = [sys.executable, "-m", "micro_batch_handler", "archive"]
        command += [str(word) for option in options.items() for word in option]
        # Its errors are on stderr; on stdout it only names the file before its last move.
        packed = subprocess.run(  # noqa: S603
            command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False
        )
        if packed.returncode == 0:
            Path(folder, example.archive.name).replace(example.archive)
        return packed.returncode


def folder_of(package: str) -> Path:
    """Where a package is installed, without importing it: many would import much."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: the example's README says how")
    return Path(spec.origin).parent
