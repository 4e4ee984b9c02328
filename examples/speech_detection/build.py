"""Pack the example: model_store/speech_detection.mar, from installed packages only.

Run from anywhere: python examples/speech_detection/build.py
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from packing import Example, folder_of, main  # noqa: E402 - examples are no package


def example(_variant: str = "") -> Example:
    """The example."""
    return Example(
        name=HERE.name,
        handler=HERE / "handler.py",
        config=HERE / "model-config.yaml",
        stage=stage,
        inputs=[published()],
    )


def stage(folder: Path) -> Mapping[str, Path]:
    """Copy the model under a name that says TorchScript to BaseHandler."""
    model = folder / "silero_vad.pt"
    shutil.copy(published(), model)
    return {"--serialized-file": model}


def published() -> Path:
    """The model, as the package ships it."""
    return folder_of("silero_vad") / "data" / "silero_vad.jit"


if __name__ == "__main__":
    sys.exit(main(example))
