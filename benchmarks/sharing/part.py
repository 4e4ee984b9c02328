"""What the parts of this benchmark share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.archives import HANDLERS

__all__ = ["HOSTED", "Found", "say", "shared", "table"]

HOSTED = HANDLERS / "hosted"
"""Handlers for this benchmark."""


@dataclass
class Found:
    """What a part has found."""

    part: str
    text: str
    """Tables and sentences, in Markdown."""
    figures: Mapping[str, Any]
    """For a JSON file."""
    wrong: list[str] = field(default_factory=list)
    """What is not as it must be; nothing if the part has passed."""


def shared(members: int, batch_size: int, **section: Any) -> dict[str, Any]:
    """The model-config.yaml of a model that its workers share."""
    return {
        "minWorkers": members,
        "maxWorkers": members,
        "batchSize": batch_size,
        "maxBatchDelay": 10,
        "micro_batching": {"share_model": True, **section},
    }


def say(text: str) -> None:
    """Tell how far a part is."""
    sys.stderr.write(f"{text}\n")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [list(head), ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
