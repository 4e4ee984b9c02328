"""The image classifier with torch.compile, on a real TorchServe."""

from __future__ import annotations

import shutil

import pytest

from harness.examples import PHOTOS, ExampleModel, labels_right, need
from harness.settings import ROOT
from harness.torchserve import TorchServe

pytestmark = pytest.mark.server

COMPILED = ROOT / ".run" / "inductor"
"""What PyTorch has compiled; kept, since that takes half a minute of processor time."""


@pytest.mark.timeout(400)
def test_a_compiled_network_is_compiled_before_the_first_request(java):
    """Photos get their known labels from a model that is compiled once, when it loads."""
    need(*PHOTOS)
    if not any(map(shutil.which, ("g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler: neither g++ nor clang++ is there")
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(COMPILED), "TORCH_LOGS": "recompiles"}
    with (
        TorchServe(environment=environment) as server,
        ExampleModel(server, "image_classifier", "compiled") as model,
    ):
        assert labels_right(model)
        log = server.log()
    assert "Compiled model with backend inductor" in log
    assert "Recompiling function" not in log
