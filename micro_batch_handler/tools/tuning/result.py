"""What tuning has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from micro_batch_handler.config import PerStage
from micro_batch_handler.tools.tuning.goals import Figures, Goal
from micro_batch_handler.tools.tuning.measured import Measured
from micro_batch_handler.tools.tuning.model import BatchModel
from micro_batch_handler.tools.tuning.outlook import Outlook
from micro_batch_handler.tools.tuning.setting import Setting

__all__ = ["NOISY", "Recommendation", "Tuning"]

NOISY = 0.1
"""Repeated measures further apart than this, relatively, are not to be trusted."""


@dataclass(frozen=True)
class Recommendation:
    """The setting for one goal."""

    goal: Goal
    measured: Figures | None
    """None if no setting that was run keeps to the limits."""

    predicted: Figures | None
    already: bool
    """Whether it is the setting that there is."""

    outlook: Outlook | None


@dataclass(frozen=True)
class Tuning:
    """All that tuning has found."""

    measured: Measured
    model: BatchModel
    given: Figures | None
    """What the setting that there is gives; None if requests fail in it."""

    recommendations: Sequence[Recommendation]
    tried: Sequence[Figures]
    predicted: Sequence[Figures]
    """Of each setting in `tried`, what was predicted before."""

    frontier: Sequence[Figures]
    candidates: int
    larger: bool
    """Whether larger batches would have been tried in more time."""

    lanes_before: PerStage[int]
    failed: Mapping[Setting, str]
    """Settings in which requests failed, and why."""

    about: Sequence[str] = ()
    """What else a reader must know."""

    noise: float = 0.0
    """How far repeated measures lie apart, relatively; the most of stages and finalists."""

    @property
    def noisy(self) -> bool:
        """Whether the machine was too restless to trust the result."""
        return self.noise > NOISY
