"""TorchServe's own `MicroBatching`, with what this package does: only the import line changes.

    from micro_batch_handler import MicroBatching      # was ts.handler_utils.micro_batching

    class Handler(ImageClassifier):
        def __init__(self):
            super().__init__()
            self.handle = MicroBatching(self)

The settings are kept here. The work is the mixin's, which is put in front of the handler's class.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from typing import Any, Union

from ts.context import Context
from ts.service import Service

from micro_batch_handler.config import SECTION, STAGES, Lanes, MicroBatchingConfig, Size
from micro_batch_handler.torchserve.engine import Engine
from micro_batch_handler.torchserve.handler import MicroBatchMixin
from micro_batch_handler.torchserve.views import current_view

__all__ = ["MicroBatching"]

Sizes = Union[Size, Mapping[str, Size]]


class MicroBatching:
    """The object that a handler sets as its `handle`, as with TorchServe's class of this name.

    `MicroBatchMixin` is put in front of the handler's class, for this handler only. So
    `self.context` in a stage is the micro-batch's view, and hooks like `join_payloads` can be
    overridden.

    Settings made here beat the `micro_batching:` section of model-config.yaml. Keys that neither
    sets have this package's defaults, except that sizes and lanes are 1, as in TorchServe. A
    setting that is changed while the handler serves counts from the next batch on.

    Args:
        parent_handler: has the three stages.
        micro_batch_size: the most rows of one call; None for model-config.yaml's, or 1.
        parallelism: lanes by stage; stages that are left out have model-config.yaml's, or 1.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: Sizes | None = None,
        parallelism: Mapping[str, Lanes] | None = None,
    ) -> None:
        self.handler = parent_handler
        self._changed = False
        """Whether a setting was changed since the lanes were last started."""
        self._size: Sizes | None = None
        self._parallelism: dict[str, Lanes] = {}
        if micro_batch_size is not None:
            self.micro_batch_size = micro_batch_size
        self.parallelism = parallelism or {}
        if not isinstance(parent_handler, _Front):  # it may have had another MicroBatching
            parent_handler.__class__ = _fronted(type(parent_handler))
        vars(parent_handler)["_micro_batching"] = self

    @property
    def micro_batch_size(self) -> Sizes:
        """The most rows of one call, as it was set here; 1 if it was not."""
        return 1 if self._size is None else self._size

    @micro_batch_size.setter
    def micro_batch_size(self, size: Sizes) -> None:
        MicroBatchingConfig.from_section({"micro_batch_size": size})
        self._changed |= self._size != size
        self._size = size

    @property
    def parallelism(self) -> dict[str, Lanes]:
        """A copy of the lanes that were set here, by stage."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, Lanes] | Lanes) -> None:
        MicroBatchingConfig.from_section({"parallelism": parallelism})
        lanes = self._parallelism | _by_stage(parallelism)
        self._changed |= self._parallelism != lanes
        self._parallelism = lanes

    def shutdown(self) -> None:
        """End the lanes. A second call does nothing; the next batch starts them again."""
        MicroBatchMixin.close(self.handler)

    def get_micro_batch_idx(self) -> int | None:
        """The number of the micro-batch that the calling stage works on; None outside of a stage.

        Handlers find their requests by it, from `index * micro_batch_size` on. So for the rest of
        the call the rows of `self.context` are counted from there, whichever they are: after a
        fault, fewer rows than a micro-batch are called again. If `micro_batch_size` is no number,
        the result is the index of the first row.
        """
        view = current_view(self.handler)
        if view is None:
            return None
        number: int = view.count_by(self._size if isinstance(self._size, int) else 1)
        return number

    def handle(self, data: list[Any]) -> list[Any]:
        """The answers for a batch, in the context that the handler has."""
        return self(data, self.handler.context)

    def __call__(self, data: list[Any], context: Context) -> list[Any]:
        """Answer a batch, as `MicroBatchHandler.handle` does."""
        encoded = sys._getframe(1).f_code is Service.predict.__code__  # noqa: SLF001
        return MicroBatchMixin._micro_batch_answers(self.handler, data, context, encoded=encoded)  # noqa: SLF001

    def _settings(self, context: Context) -> Context:
        """The load's context with the settings in force in its model_yaml_config."""
        model_yaml = getattr(context, "model_yaml_config", None) or {}
        section = model_yaml.get(SECTION) or {} if isinstance(model_yaml, Mapping) else None
        if not isinstance(section, Mapping):
            return context  # is refused where settings are read
        lanes = _by_stage(1) | _by_stage(section.get("parallelism", {})) | self._parallelism
        size = section.get("micro_batch_size", 1) if self._size is None else self._size
        settings = copy.copy(context)
        merged = {**section, "micro_batch_size": size, "parallelism": lanes}
        settings.model_yaml_config = {**model_yaml, SECTION: merged}
        return settings


class _Front(MicroBatchMixin):
    """Stands in front of the class of a handler that has a `MicroBatching`."""

    def _micro_batch_engine_for(self, context: Context) -> Engine:
        batching: MicroBatching = vars(self)["_micro_batching"]
        # No batch is under way here, since only this thread calls the handler.
        if batching._changed:  # noqa: SLF001  (of this file)
            batching._changed = False  # noqa: SLF001
            MicroBatchMixin.close(self)
        if "_micro_batch_engine" not in vars(self):
            context = batching._settings(context)  # noqa: SLF001
        return super()._micro_batch_engine_for(context)


def _fronted(kind: type) -> type:
    """A class for objects of `kind`, in which `_Front` is in front.

    An object can be given only a class of the same layout, whose first base is the object's class.
    So `_Front` comes second among the bases, and first in the order in which methods are found.
    """
    front = [_Front] if issubclass(kind, MicroBatchMixin) else [_Front, MicroBatchMixin]

    class InFront(type(kind)):  # type: ignore[misc]  # of whatever the class is made by
        def mro(cls) -> list[type]:
            return [cls, *front, *kind.__mro__]

    names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return InFront(kind.__name__, (kind, _Front), names)


def _by_stage(lanes: Any) -> dict[str, Any]:
    return dict(lanes) if isinstance(lanes, Mapping) else dict.fromkeys(STAGES, lanes)
