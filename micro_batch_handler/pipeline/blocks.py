"""Blocks of rows: what has its rows one after the other, and how these are cut and joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = ["Block", "Uncuttable", "block_of", "type_of"]


class Uncuttable(TypeError):  # noqa: N818  (names the state of the payload, not the act)
    """A payload, or a part of it, is not made of rows; the message says which part."""


@dataclass(frozen=True)
class Block:
    """One kind of rows in a row."""

    rows: Callable[[Any], int]
    cut: Callable[[Any, int, int], Any]
    join: Callable[[Sequence[Any], str], Any]
    """Of one type, in order; says where it is in the payload if it cannot be joined."""


def block_of(payload: Any) -> Block | None:
    """How rows of this kind are handled; None for what is no block of rows.

    Tensors and arrays whose rows cannot be cut and joined without loss are none: sparse, nested
    and quantized tensors, masked and record arrays.
    """
    if isinstance(payload, list):
        return LIST
    if isinstance(payload, torch.Tensor):
        whole = payload.is_nested or payload.is_quantized or payload.layout != torch.strided
        return None if whole or not payload.ndim else TENSOR
    return ARRAY if type(payload) is np.ndarray and payload.ndim else None


def type_of(payload: Any) -> str:
    """The name of its type, as messages say it."""
    return f"{type(payload).__module__}.{type(payload).__qualname__}".removeprefix("builtins.")


def _first_dimension(payload: Any) -> int:
    return int(payload.shape[0])


def _slice(payload: Any, start: int, stop: int) -> Any:
    return payload[start:stop]


def _join_lists(payloads: Sequence[Any], _where: str) -> Any:
    return [row for payload in payloads for row in payload]


def _join_tensors(payloads: Sequence[Any], where: str) -> Any:
    _same((f"{p.dtype} {tuple(p.shape[1:])} on {p.device}" for p in payloads), where)
    return torch.cat(list(payloads))


def _join_arrays(payloads: Sequence[Any], where: str) -> Any:
    _same((f"{p.dtype} {p.shape[1:]}" for p in payloads), where)
    return np.concatenate(list(payloads))


def _same(kinds: Iterable[str], where: str) -> None:
    found = sorted(set(kinds))
    if len(found) > 1:
        raise Uncuttable(
            f"{where} has rows of different kinds: {'; '.join(found)}. Override "
            f"group_by(payload) to keep them apart, or join_payloads(payloads) to pad them"
        )


LIST = Block(len, _slice, _join_lists)
TENSOR = Block(_first_dimension, _slice, _join_tensors)
ARRAY = Block(_first_dimension, _slice, _join_arrays)
