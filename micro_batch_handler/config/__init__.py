"""The `micro_batching:` section of model-config.yaml: checked once, then frozen.

Imports neither torch nor TorchServe, so that the packing tools can check a section anywhere.
"""

from micro_batch_handler.config.keys import MicroBatchingConfig, TraceSettings
from micro_batch_handler.config.limits import SECTION
from micro_batch_handler.config.stages import (
    AUTO,
    STAGES,
    Lanes,
    Metrics,
    PerStage,
    Size,
    Stage,
    Threads,
)

__all__ = [
    "AUTO",
    "SECTION",
    "STAGES",
    "Lanes",
    "Metrics",
    "MicroBatchingConfig",
    "PerStage",
    "Size",
    "Stage",
    "Threads",
    "TraceSettings",
]
