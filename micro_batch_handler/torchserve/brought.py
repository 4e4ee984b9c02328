"""Handlers that know no micro-batches, as a packed archive brings them.

The command that packs them puts one of these in front; what it could not read in the handler's
file is looked at here, when the model loads.
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


class _Whole:
    """A function `handle(data, context)` as a handler: one stage does it all.

    TorchServe calls such a function with no data when the model loads.
    """

    function: ClassVar[Any]
    _micro_batch_takes_rows = "function"

    def initialize(self, context: Context) -> None:
        self.function(None, context)

    def handle(self, data: list[Any], context: Context) -> Any:
        return self.function(data, context)

    def preprocess(self, data: list[Any]) -> list[Any]:
        return data

    def inference(self, data: list[Any]) -> Any:
        return self.function(data, self.context)  # type: ignore[attr-defined]  # the mixin's

    def postprocess(self, outputs: Any) -> Any:
        return outputs


class BroughtHandle(MicroBatchMixin):
    """Put in front of a class whose `handle` does it all: `class M(BroughtHandle, Handler)`.

    As with a function nothing overlaps; see `BroughtFunction`.
    """

    _micro_batch_takes_rows = "_micro_batch_handle"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(kind for kind in _behind(cls) if "handle" in vars(kind))
        cls._micro_batch_handle = vars(owner)["handle"]

    def preprocess(self, data: list[Any]) -> list[Any]:
        """The requests as they are."""
        return data

    def inference(self, data: list[Any]) -> Any:
        """What the class's own `handle` answers."""
        return self._micro_batch_handle(data, self.context)

    def postprocess(self, outputs: Any) -> Any:
        """The answers as they are."""
        return outputs

    _micro_batch_handle: ClassVar[Any]


class BroughtFunction(MicroBatchMixin, _Whole):
    """Runs a module's function in place of stages; a subclass has it as `function`.

    It gains all that does not need stages: faults that cost one request, decoding and encoding,
    time-outs, deadlines. Nothing overlaps.
    """
