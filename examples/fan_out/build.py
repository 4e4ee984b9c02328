"""Pack the example: model_store/fan_out.mar, with the network of examples/sentence_embeddings.

Run from anywhere: python examples/fan_out/build.py
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
NETWORK = HERE.parent / "sentence_embeddings"
sys.path += [str(HERE.parent), str(NETWORK)]
from packing import Example, main  # noqa: E402 - examples are no package


def example(_variant: str = "") -> Example:
    """The example of single sentences, with another handler."""
    # By its path, because both files are called build.py.
    spec = importlib.util.spec_from_file_location("sentence_embeddings", NETWORK / "build.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{NETWORK} is missing")
    sentences = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sentences)
    one: Example = sentences.example()
    return replace(
        one,
        name=HERE.name,
        handler=HERE / "handler.py",
        config=HERE / "model-config.yaml",
        inputs=[*one.inputs, NETWORK / "model.py"],
    )


if __name__ == "__main__":
    sys.exit(main(example))
