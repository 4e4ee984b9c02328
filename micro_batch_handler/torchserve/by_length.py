"""Requests in the order of their length, so that those of like length share calls.

A model that pads its rows computes the longest of each call for all of them. Cut as they came,
nearly every micro-batch has a long one; cut by length, short ones cost what short ones cost. So
sentence-transformers encodes (https://sbert.net, `SentenceTransformer.encode`), and so Hugging
Face's Trainer trains (`group_by_length`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["by_length", "length"]


def by_length(data: Sequence[Any]) -> list[int]:
    """The places of a batch's rows, the shortest row first; equal ones as they came."""
    lengths = [length(row) for row in data]
    return sorted(range(len(data)), key=lengths.__getitem__)


def length(row: Any) -> int:
    """Bytes of a row's bodies as they came; of decoded ones, the characters and numbers in them.

    Of bodies of one kind the larger is the longer, whatever kind that is.
    """
    found = 0
    todo = [row]  # not by recursion, which a deeply nested body would end
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
