"""A block: what has its rows one after the other, and how rows of its kind are cut and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Block", "Uncuttable", "first_dimension", "same_kind"]


class Uncuttable(TypeError):  # noqa: N818  (names the state of the payload, not the act)
    """A payload, or a part of it, is not made of rows; the message says which part."""


@dataclass(frozen=True)
class Block:
    """What can be done with blocks of one kind."""

    rows: Callable[[Any], int]
    cut: Callable[[Any, int, int], Any]
    join: Callable[[Sequence[Any], str], Any]
    """Of one type, in order; told where in the payload they are, for what it raises."""


def same_kind(kinds: Iterable[str], where: str) -> None:
    """Refuse to join rows of different kinds, which would change some of them.

    Raises:
        Uncuttable: they are different.
    """
    found = sorted(set(kinds))
    if len(found) > 1:
        raise Uncuttable(
            f"{where} has rows of different kinds: {'; '.join(found)}. Override "
            f"group_by(payload) to keep them apart, or join_payloads(payloads) to pad them"
        )


def first_dimension(payload: Any) -> int:
    """The rows of tensors and the like."""
    return int(payload.shape[0])
