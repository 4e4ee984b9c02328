"""Lets a model that BaseHandler gives to `torch.compile` answer uncompiled until that is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from micro_batch_handler.config.limits import compile_options
from micro_batch_handler.pipeline.device.compiled_model import CompiledModel

__all__ = ["compile_beside"]


def compile_beside(
    handler: Any, sizes: Sequence[int], model_yaml: Mapping[Any, object]
) -> CompiledModel | None:
    """Let the handler's model be compiled in a thread beside its calls, if `pt2` compiles it.

    A model that the handler has compiled by itself stays as it is.

    Args:
        handler: that has loaded its model.
        sizes: the row counts to compile for; none if all are allowed.
        model_yaml: a whole model-config.yaml.
    """
    options = compile_options(model_yaml)
    if not sizes or options is None:
        return None
    from torch._dynamo import OptimizedModule  # two seconds, which only compilers need

    model = getattr(handler, "model", None)
    if not isinstance(model, OptimizedModule):
        return None
    before = vars(model)["forward"]
    if isinstance(before, CompiledModel):
        return before  # an earlier engine's
    # In its place, and not around it: the handler may know the module, and ask it for attributes.
    compiled = vars(model)["forward"] = CompiledModel(model._orig_mod, sizes, options)  # noqa: SLF001
    return compiled
