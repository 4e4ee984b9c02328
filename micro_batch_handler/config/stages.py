"""The three stages, a value for each of them, and the types of such values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, Union

__all__ = ["AUTO", "STAGES", "Lanes", "Metrics", "PerStage", "Size", "Stage", "Threads"]

Stage = Literal["preprocess", "inference", "postprocess"]
STAGES: tuple[Stage, ...] = ("preprocess", "inference", "postprocess")

AUTO: Literal["auto"] = "auto"
Size = Union[int, Literal["auto"]]
Lanes = Union[int, Literal["auto"]]
Threads = Union[int, Literal["auto"]]
Metrics = Union[bool, Literal["auto"]]

T = TypeVar("T")


@dataclass(frozen=True)
class PerStage(Generic[T]):
    """One value for each stage; iterates in the order of the stages."""

    preprocess: T
    inference: T
    postprocess: T

    def __getitem__(self, stage: Stage) -> T:
        value: T = getattr(self, stage)
        return value

    def __iter__(self) -> Iterator[T]:
        return (self[stage] for stage in STAGES)

    @classmethod
    def of(cls, value: T) -> PerStage[T]:
        """The same value for every stage."""
        return cls(value, value, value)
