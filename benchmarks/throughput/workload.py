"""The types of workloads, contenders and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Config", "Contender", "Measure", "Target", "Workload"]

Config: TypeAlias = "Mapping[str, Any]"
"""The content of model-config.yaml, or a part of it."""

Measure: TypeAlias = Literal["rate", "p50_ms"]
"""What contenders are compared by: requests per second, or the median latency."""


@dataclass(frozen=True)
class Contender:
    """A handler that serves a workload."""

    key: str
    """Its file in contenders/."""
    title: str
    candidates: Sequence[Config] = ({},)
    """What it adds to the workload's model-config.yaml; of several, a search finds the best."""
    decode: bool = True
    """`decode_input_request` of its server: whether TorchServe decodes JSON bodies."""


@dataclass(frozen=True)
class Target:
    """What ours should reach against another contender: a ratio of the measure, ours to theirs."""

    against: str
    ratio: float


@dataclass(frozen=True)
class Workload:
    """A task, and who competes in it."""

    name: str
    title: str
    stages: str
    """Its file in stages/."""
    clients: int
    bodies: Callable[[], list[bytes]]
    content_type: str
    config: Config
    contenders: Sequence[Contender]
    targets: Sequence[Target]
    accelerator: Mapping[str, float] | None = None
    """Costs of the emulated device, as `Accelerator` takes them; None for work on the CPU."""
    measure: Measure = "rate"
    handler: Config = field(default_factory=dict)
    """The `handler:` section for all contenders."""

    def config_for(self, candidate: Config, device: str) -> dict[str, Any]:
        """The whole model-config.yaml of a contender; `device` is the accelerator's file."""
        accelerator = None if self.accelerator is None else {**self.accelerator, "path": device}
        handler = {
            "threads": 1,
            "accelerator": accelerator,
            **self.handler,
            **candidate.get("handler", {}),
        }
        return {**self.config, **candidate, "handler": handler}
