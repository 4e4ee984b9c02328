"""Requests in the order of their length, so that those of similar length share calls.

A model that pads its rows computes as if each were as long as the longest of the call. In the order
of arrival nearly every micro-batch has a long row. In the order of length most have none. The
method is that of sentence-transformers (https://sbert.net, `SentenceTransformer.encode`) and of
Hugging Face's Trainer (`group_by_length`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["by_length", "length"]


def by_length(data: Sequence[Any]) -> list[int]:
    """The indices of a batch's rows, the shortest row first; equal ones as they came."""
    lengths = [length(row) for row in data]
    return sorted(range(len(data)), key=lengths.__getitem__)


def length(row: Any) -> int:
    """The length of a row: bytes of its bodies, or characters and numbers in decoded ones.

    Among bodies of one kind, the larger one is longer.
    """
    found = 0
    todo = [row]  # no recursion, since a body may be nested deeply
    while todo:
        value = todo.pop()
        if isinstance(value, (bytes, bytearray, str)):
            found += len(value)
        elif isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, (list, tuple)):
            todo += value
        else:
            found += 1
    return found
