"""TorchServe's archives on Ray Serve: the same handler, the same answers, on one machine or many.

Needs the extra `ray`. In Python, in a config file for `serve run` and `serve deploy`, and as a
command:

    serve.run(deployment("model_store/cat.mar"))

    applications:
    - name: models
      import_path: micro_batch_handler.ray:app
      args: {archives: [model_store/cat.mar]}

    micro-batch-handler ray model_store/*.mar
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micro_batch_handler.ray.application import app, deployment

__all__ = ["app", "deployment"]


def __getattr__(name: str) -> Any:
    """Import the application when it is asked for: the command's --help needs no Ray."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("micro_batch_handler.ray.application"), name)
