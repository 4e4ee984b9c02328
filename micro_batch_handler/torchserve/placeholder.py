"""What a worker has in place of the model, and how the handler comes to load that."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from ts.context import Context
from ts.torch_handler import base_handler

__all__ = [
    "ModelElsewhere",
    "environment_with_gpus",
    "hide_gpus",
    "on_cpu",
    "without_model",
]

LOADERS = ("_load_torchscript_model", "_load_pickled_model", "_load_torch_export_aot_compile")
"""The methods by which BaseHandler reads weights."""


GPUS = "CUDA_VISIBLE_DEVICES"

_given: list[str | None] = []
"""What the variable was before it was set here, once it was; None if it was not there."""


def hide_gpus() -> None:
    """Let nothing in this process find a GPU from now on, nor take memory there."""
    if not _given:
        _given.append(os.environ.get(GPUS))
    os.environ[GPUS] = ""
    # The driver has read that before: TorchServe's BaseHandler asks it when it is imported.
    torch.cuda.is_available = lambda: False


def environment_with_gpus() -> dict[str, str]:
    """The environment of this process, as it was before `hide_gpus`."""
    gpus = _given[0] if _given else os.environ.get(GPUS)
    others = {key: os.environ[key] for key in os.environ if key != GPUS}
    return others if gpus is None else {**others, GPUS: gpus}


class ModelElsewhere(torch.nn.Module):
    """Stands for the model in a worker; it can be moved and set up, but not called."""

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refuse the call.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            "the model is in another process (micro_batching.share_model), which runs the hosted "
            "stages only. Call the model in inference, or set share_model to false"
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"the model is in another process (micro_batching.share_model), so a worker cannot "
                f"read its {name}. Read it in initialize_member(context) from the files of the "
                f"archive, or set share_model to false"
            ) from None


def on_cpu(context: Context) -> Context:
    """The context as a worker without a GPU gets it; without the settings of the compiler."""
    cpu = copy.copy(context)
    vars(cpu)["_system_properties"] = {**context.system_properties, "gpu_id": None}
    yaml: Mapping[str, Any] = getattr(context, "model_yaml_config", None) or {}
    vars(cpu)["model_yaml_config"] = {key: yaml[key] for key in yaml if key != "pt2"}
    return cpu


@contextmanager
def without_model(handler: Any) -> Iterator[None]:
    """In the body, BaseHandler's loaders give a placeholder."""

    def placeholder(*_: Any, **__: Any) -> ModelElsewhere:
        return ModelElsewhere().eval()

    onnx = base_handler.setup_ort_session
    base_handler.setup_ort_session = placeholder
    for name in LOADERS:
        vars(handler)[name] = placeholder
    try:
        yield
    finally:
        base_handler.setup_ort_session = onnx
        for name in LOADERS:
            vars(handler).pop(name, None)
