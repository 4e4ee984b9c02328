"""What a worker has in place of the model, and how BaseHandler comes to load it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from ts.torch_handler import base_handler
from ts.torch_handler.base_handler import BaseHandler

from harness.service import FakeMetrics
from micro_batch_handler.torchserve.placeholder import (
    ModelElsewhere,
    on_cpu,
    without_model,
)
from tests.fakes import fake_context


@pytest.mark.parametrize(
    "set_up",
    [
        lambda model: model.to("cpu"),
        lambda model: model.to(torch.float16),
        lambda model: model.eval(),
        lambda model: model.half(),
        lambda model: model.requires_grad_(False),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_the_placeholder_is_set_up_as_a_model(set_up):
    """Moving it, and all else that a handler does after loading, gives a placeholder."""
    assert isinstance(set_up(ModelElsewhere()), ModelElsewhere)


def test_calling_the_placeholder_says_where_the_model_is():
    """And what to do about it."""
    with pytest.raises(RuntimeError, match=r"in another process.*Call the model in inference"):
        ModelElsewhere()(torch.ones(1))


def test_reading_from_the_placeholder_says_where_the_model_is():
    """As an AttributeError, so that `hasattr` works."""
    model = ModelElsewhere()

    with pytest.raises(AttributeError, match=r"cannot read its config.*initialize_member"):
        _ = model.config
    assert not hasattr(model, "config")


def test_a_worker_gets_the_context_without_gpu_and_compiler():
    """All else stays, and the context itself is as it was."""
    yaml = {"pt2": {"compile": {"enable": True}}, "other": 1}
    context = fake_context(1, model_yaml=yaml)
    context.system_properties["gpu_id"] = 3

    cpu = on_cpu(context)

    assert cpu.system_properties == {**context.system_properties, "gpu_id": None}
    assert cpu.model_yaml_config == {"other": 1}
    assert context.system_properties["gpu_id"] == 3
    assert context.model_yaml_config == yaml


def archived(folder, serialized: str, **manifest):
    """A context of a load from this folder."""
    context = fake_context(1)
    context.manifest = {"model": {"serializedFile": serialized, **manifest}}
    context._system_properties = {
        "model_dir": str(folder),
        "gpu_id": None,
        "batch_size": 1,
        "server_name": "",
        "server_version": "",
    }
    context.metrics = FakeMetrics()
    return context


@pytest.mark.parametrize(
    ("serialized", "manifest"),
    [
        ("model.pt", {}),
        ("weights.pt", {"modelFile": "net.py"}),
        pytest.param(
            "model.onnx",
            {},
            marks=pytest.mark.skipif(
                not base_handler.ONNX_AVAILABLE, reason="onnxruntime is missing"
            ),
        ),
    ],
)
def test_base_handler_reads_no_weights(tmp_path, serialized, manifest):
    """Files that are no model at all do for a worker, and later loads read them again."""
    (tmp_path / serialized).write_text("no model")
    (tmp_path / "net.py").write_text("import not_there")
    (tmp_path / "index_to_name.json").write_text(json.dumps({"0": "zero"}))
    handler = BaseHandler()
    context = archived(tmp_path, serialized, **manifest)

    with without_model(handler):
        handler.initialize(context)

    assert isinstance(handler.model, ModelElsewhere)
    assert not handler.model.training
    assert handler.mapping == {"0": "zero"}
    assert handler.initialized
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever reading that raises)
        BaseHandler().initialize(context)
    assert not [name for name in vars(handler) if name.startswith("_load")]
