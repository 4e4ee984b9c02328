"""The types of workloads, contenders and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["LIMIT", "Config", "Contender", "Measure", "Target", "Workload"]

LIMIT = "limit"
"""What a target names for `Workload.limit`."""

Config: TypeAlias = "Mapping[str, Any]"
"""The content of model-config.yaml, or a part of it."""

Measure: TypeAlias = Literal["rate", "p50_ms"]
"""What contenders are compared by: requests per second, or the median latency."""


@dataclass(frozen=True)
class Contender:
    """A handler that serves a workload."""

    key: str
    """Its name in commands."""
    title: str
    candidates: Sequence[Config] = ({},)
    """What it adds to the workload's model-config.yaml; of several, a search finds the best.
    `minWorkers` is the number of its workers, 1 without it.
    """
    decode: bool = True
    """`decode_input_request` of its server: whether TorchServe decodes JSON bodies."""
    handler: str = ""
    """Its file in contenders/; empty for the one named like `key`."""

    @property
    def file(self) -> str:
        """The name of its file in contenders/."""
        return f"{self.handler or self.key}.py"


@dataclass(frozen=True)
class Target:
    """What a contender should reach against another: a ratio of the measure, its own to theirs."""

    against: str
    """A contender's key, or LIMIT."""
    ratio: float
    of: str = "ours"
    """The key of the contender that should reach it."""


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

    @property
    def limit(self) -> float | None:
        """Requests per second of an accelerator that is never idle, in calls of `batchSize` rows.

        None without an accelerator, and where latencies are compared.
        """
        if self.accelerator is None or self.measure != "rate":
            return None
        rows = int(self.config["batchSize"])
        return 1000 * rows / (self.accelerator["launch_ms"] + self.accelerator["row_ms"] * rows)

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
