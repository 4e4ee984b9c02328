"""What a packed archive puts in front of a handler that knows no micro-batches.

The packing command writes a file that derives from one of these classes. What it could not read in
the handler's file is checked here, when the model loads.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler.errors import ConfigError
from micro_batch_handler.torchserve.handler import MicroBatchMixin

__all__ = ["BroughtClass", "BroughtFunction", "BroughtHandle"]


class BroughtClass(MicroBatchMixin):
    """Put in front of a class that has stages: `class MicroBatched(BroughtClass, Handler)`.

    Raises:
        ConfigError: the class has a `handle` of its own, which would silently be passed over.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next((kind for kind in _behind(cls) if "handle" in vars(kind)), None)
        if owner not in (None, BaseHandler):
            raise ConfigError(
                f"{owner.__name__} has a handle() of its own, which micro-batching would pass "
                f"over. Derive it from micro_batch_handler.MicroBatchHandler, let handle() call "
                f"super().handle(data, context) where it called the stages, and pack it as it is"
            )

    def initialize(self, context: Context) -> None:
        """Load the model as the class does.

        Raises:
            ConfigError: the object has a `handle` of its own, or a setting cannot work.
        """
        if "handle" in vars(self):
            raise ConfigError(
                f"{_behind(type(self))[0].__name__} sets self.handle, which passes micro-batching "
                f"over. Remove that line; for TorchServe's MicroBatching(self), import it from "
                f"micro_batch_handler instead, and pack the handler as it is"
            )
        super().initialize(context)


def _behind(kind: type) -> tuple[type, ...]:
    return kind.__mro__[kind.__mro__.index(MicroBatchMixin) + 1 :]


class _OneStage(MicroBatchMixin):
    """One method answers requests, so that there are no stages to overlap.

    Micro-batching still limits a fault to one request, decodes and encodes, and keeps time-outs
    and deadlines.
    """

    _micro_batch_one_stage: ClassVar[str]
    """The name of that method."""

    def preprocess(self, data: list[Any]) -> list[Any]:
        """The requests as they are."""
        return data

    def inference(self, data: list[Any]) -> Any:
        """What the method answers."""
        return getattr(self, self._micro_batch_one_stage)(data, self.context)

    def postprocess(self, outputs: Any) -> Any:
        """The answers as they are."""
        return outputs


class BroughtHandle(_OneStage):
    """Put in front of a class whose `handle` answers by itself: `class M(BroughtHandle, Handler)`.

    Nothing overlaps.
    """

    _micro_batch_one_stage = "_micro_batch_handle"
    _micro_batch_handle: ClassVar[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(kind for kind in _behind(cls) if "handle" in vars(kind))
        cls._micro_batch_handle = vars(owner)["handle"]


class _Function:
    """A function `handle(data, context)`, as the methods that TorchServe calls."""

    function: ClassVar[Any]

    def initialize(self, context: Context) -> None:
        """Call the function with no data, as TorchServe does when the model loads."""
        self.function(None, context)

    def handle(self, data: list[Any], context: Context) -> Any:
        return self.function(data, context)


class BroughtFunction(_OneStage, _Function):
    """Put in front of a module's function, which a subclass has as `function`.

    Nothing overlaps.
    """

    _micro_batch_one_stage = "function"
