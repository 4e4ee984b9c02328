"""The ways in which a check has a batch cut, and how a loaded handler is told to cut it.

The handler runs the archive's copy of this package, which may be an older one. So only few parts
of it are used: the section of model-config.yaml; `MicroBatchMixin.close`, after which the next
batch reads that section again; the attributes that `MicroBatching` shares with TorchServe's; and
the one by which a handler reaches a shared model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TRACE_KEYS", "Settings", "Way", "settings_of"]

_SECTION = "micro_batching"
_STAGES = ("preprocess", "inference", "postprocess")

TRACE_KEYS = ("trace", "trace_file", "trace_batches")
"""The file that these ask for is the worker's to write, not this process's. The last two are the
old spelling, and all that an older copy knows."""

_MEMBER = "_micro_batch_member"
"""The attribute of a handler with which it asks a shared model; older copies have none."""

_UNCUT = (
    "Set micro_batching.micro_batch_size to batchSize or more, or keep nothing on self, or "
    "elsewhere, between stages"
)
_ONE_LANE = (
    "Set micro_batching.parallelism to 1, or let the methods of the handler stand several threads "
    "at once"
)


@dataclass(frozen=True)
class Way:
    """One way to call the stages."""

    name: str
    sizes: Mapping[str, int]
    lanes: Mapping[str, int]
    advice: str = _UNCUT
    """How to change the handler or its settings if answers differ."""


@dataclass
class Settings:
    """The settings of a handler that micro-batches."""

    mixin: Any
    """The archive's `MicroBatchMixin`."""
    handler: Any
    """An instance of it."""
    context: Any
    """The one that the handler was loaded with."""
    batching: Any = None
    """The handler's `handle`, if that is a `MicroBatching`."""

    def __post_init__(self) -> None:
        self._given: Mapping[str, Any] = self.context.model_yaml_config or {}
        self._section: dict[str, Any] = dict(self._given.get(_SECTION) or {})
        for key in TRACE_KEYS:
            self._section.pop(key, None)
        self._lanes = self._tested_lanes()  # before anything else is set

    def most(self, rows: int) -> int:
        """The most of so many rows that one call of inference may have."""
        allowed = self._section.get("allowed_sizes")
        return min(rows, allowed[-1]) if allowed else rows

    def whole(self, rows: int) -> Way:
        """The way that leaves batches of so many rows whole."""
        return Way("whole", dict.fromkeys(_STAGES, rows), dict.fromkeys(_STAGES, 1))

    def ways(self, rows: int) -> list[Way]:
        """The ways to cut a batch of so many rows."""
        one = dict.fromkeys(_STAGES, 1)
        ways = [Way("in micro-batches of 1", one, one)]
        two = self.most(2)
        if rows > two > 1:
            ways.append(Way("in micro-batches of 2", dict.fromkeys(_STAGES, two), one))
        sizes = dict(zip(_STAGES, (1, self.most(rows), min(2, rows)), strict=True))
        ways.append(Way(f"regrouped {'/'.join(map(str, sizes.values()))}", sizes, one))
        if self._lanes != one:
            ways.append(Way("in several lanes", one, self._lanes, _ONE_LANE))
        return ways

    def apply(self, way: Way) -> None:
        """Let the next batch be cut like this.

        Raises:
            Exception: this copy of the package works otherwise.
        """
        sizes, lanes = dict(way.sizes), dict(way.lanes)
        section = {**self._section, "micro_batch_size": sizes, "parallelism": lanes}
        self.context.model_yaml_config = {**self._given, _SECTION: section}
        if self.batching is not None:
            self.batching.micro_batch_size = sizes
            self.batching.parallelism = lanes
        # Without its member, closing leaves a shared model where it is.
        kept = {_MEMBER: vars(self.handler).pop(_MEMBER)} if self.shares_model else {}
        self.mixin.close(self.handler)
        vars(self.handler).update(kept)

    @property
    def shares_model(self) -> bool:
        """Whether the model is in a process of its own (`share_model`)."""
        return _MEMBER in vars(self.handler)

    def _tested_lanes(self) -> dict[str, int]:
        """Two lanes for each stage that has several: its methods must work in several threads."""
        asked = _by_stage(self._section.get("parallelism", 1))
        asked |= _by_stage(getattr(self.batching, "parallelism", {}))
        return {stage: 2 if _is_several(asked.get(stage, 1), stage) else 1 for stage in _STAGES}


def settings_of(service: Any) -> Settings | None:
    """The settings of the handler that TorchServe has loaded; None if it does not micro-batch."""
    # Not imported here: a handler that has not imported the package does not use it.
    package = sys.modules.get("micro_batch_handler")
    mixin = getattr(package, "MicroBatchMixin", None)
    if mixin is None:
        return None
    entry = service._entry_point  # noqa: SLF001 - no other way to it
    handler = getattr(entry, "__self__", None)
    if isinstance(handler, mixin):
        return Settings(mixin, handler, service.context)
    batching: Any = getattr(package, "MicroBatching", ())
    if isinstance(entry, batching):
        return Settings(mixin, entry.handler, service.context, entry)
    return None


def _by_stage(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(_STAGES, value)


def _is_several(lanes: Any, stage: str) -> bool:
    # `auto` is one lane for inference.
    return stage != "inference" if lanes == "auto" else isinstance(lanes, int) and lanes > 1
