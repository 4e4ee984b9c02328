"""Micro-batching for TorchServe: the three stages of a handler, at the same time, in threads.

The public names load lazily: `import micro_batch_handler.config` needs neither torch nor
TorchServe, so that archives can be packed on machines that serve nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micro_batch_handler.torchserve.handler import MicroBatchHandler, MicroBatchMixin
    from micro_batch_handler.torchserve.micro_batching import MicroBatching

__all__ = ["MicroBatchHandler", "MicroBatchMixin", "MicroBatching", "__version__"]

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    if name in ("MicroBatchHandler", "MicroBatchMixin"):
        from micro_batch_handler.torchserve import handler

        return getattr(handler, name)
    if name == "MicroBatching":
        from micro_batch_handler.torchserve import micro_batching

        return micro_batching.MicroBatching
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
