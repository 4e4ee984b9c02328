"""Pack the example: model_store/gpu_photos.mar, from installed packages only.

Run from anywhere: python examples/gpu_photos/build.py
"""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLASSIFIER = HERE.parent / "image_classifier"
sys.path.append(str(HERE.parent))
from packing import Example, main  # noqa: E402 - examples are no package

# Its build.py has the name of this file.
classifier = runpy.run_path(str(CLASSIFIER / "build.py"))


def example(_: str = "") -> Example:
    """Network, weights and labels are those of image_classifier."""
    return Example(
        name="gpu_photos",
        handler=HERE / "handler.py",
        config=HERE / "model-config.yaml",
        stage=stage,
        inputs=[*CLASSIFIER.glob("*.py"), *classifier["example"]().inputs],
    )


def stage(folder: Path) -> Mapping[str, Path]:
    """Lay out what image_classifier needs, and its handler."""
    options: Mapping[str, Path] = classifier["stage"](folder)
    extra = options["--extra-files"]
    shutil.copy(CLASSIFIER / "handler.py", extra / "image_classifier_handler.py")
    return options


if __name__ == "__main__":
    sys.exit(main(example))
