"""The description of another server that is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from benchmarks.throughput.workload import Workload

__all__ = ["Peer", "Settings"]

Settings: TypeAlias = "Mapping[str, Any]"
"""The settings of a peer's serve.py: batch size, wait, threads, workers."""


def _same_body(_workload: Workload, body: bytes) -> bytes:
    return body


def _same_type(workload: Workload) -> str:
    return workload.content_type


def _same_answer(answer: Any) -> Any:
    return answer


@dataclass(frozen=True)
class Peer:
    """A server that is not TorchServe.

    Its folder holds `requirements.txt`, for a virtual environment of its own, and `serve.py`,
    which serves until it gets SIGTERM:

        serve.py --stages FOLDER --port PORT --config JSON --settings JSON

    `FOLDER` has `stages.py`, with the three methods of the workload in its class `Stages`, and what
    that needs beside it; `--config` is what `Stages.initialize` finds in `model_yaml_config`.
    """

    key: str
    """Its folder."""
    title: str
    path: str
    """Where it takes requests."""
    settings: Mapping[str, Sequence[Settings]]
    """By the workload's stages; of several, a search finds the best."""
    follows: str
    """The page of its documentation that its server follows."""
    wrap: Callable[[Workload, bytes], bytes] = field(default=_same_body)
    """A workload's body as its clients send it."""
    content_type: Callable[[Workload], str] = field(default=_same_type)
    unwrap: Callable[[Any], Any] = field(default=_same_answer)
    """Its decoded answer as the stages answer."""
    restless: bool = False
    """Whether it uses processor time without requests; then it is stopped until its turn."""
    python: str | None = None
    """The interpreter of its virtual environment; None for the one that runs this."""
