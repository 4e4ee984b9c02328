"""Blocks: payloads that hold their rows one after the other, and how each kind is cut and joined.

Lists, deques, NumPy arrays and PyTorch tensors are here, sparse tensors included; those of pandas
are in frames.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

__all__ = ["ARRAY", "DEQUE", "LIST", "Block", "Uncuttable", "tensor_block"]


class Uncuttable(TypeError):  # noqa: N818  (names the state of the payload, not the act)
    """A payload, or a part of it, is not made of rows; the message says which part."""


@dataclass(frozen=True)
class Block:
    """How blocks of one kind are cut and joined; their length is their number of rows."""

    cut: Callable[[Any, int, int], Any]
    """(block, start, stop) -> the rows from `start` up to `stop`"""
    join: Callable[[Sequence[Any], str], Any]
    """(blocks of one type, where they stand in the payload) -> their rows in order

    Raises Uncuttable, which says where, if joining would change rows or lose some.
    """


def tensor_block(tensor: torch.Tensor) -> Block | None:
    """How a tensor's rows are cut and joined; None if they cannot be without loss.

    A quantized tensor has one scale for all its rows. Nested tensors can be added to each other
    only while they share their offsets, which those of different calls do not.
    """
    if tensor.is_nested or tensor.is_quantized or not tensor.ndim:
        return None
    if tensor.layout == torch.strided:
        return DENSE
    if tensor.layout == torch.sparse_coo:
        return SPARSE_COO if tensor.sparse_dim() else None
    one_matrix = tensor.layout == torch.sparse_csr and tensor.crow_indices().ndim == 1
    return SPARSE_CSR if one_matrix else None


def _slice(block: Any, start: int, stop: int) -> Any:
    return block[start:stop]


def _same_kind(kinds: Iterable[str], where: str) -> None:
    """Raise Uncuttable if rows differ in kind, since joining would convert some of them."""
    found = sorted(set(kinds))
    if len(found) > 1:
        raise Uncuttable(
            f"{where} has rows of different kinds: {'; '.join(found)}. Override "
            f"group_by(payload) to keep them apart, or join_payloads(payloads) to pad them"
        )


def _join_lists(lists: Sequence[list[Any]], _where: str) -> list[Any]:
    return list(chain.from_iterable(lists))


def _cut_deque(rows: deque[Any], start: int, stop: int) -> deque[Any]:
    return deque(islice(rows, start, stop), rows.maxlen)


def _join_deques(deques: Sequence[deque[Any]], where: str) -> deque[Any]:
    _same_kind((f"deque with maxlen {each.maxlen}" for each in deques), where)
    most, rows = deques[0].maxlen, sum(map(len, deques))
    if most is not None and rows > most:
        raise Uncuttable(f"{where} would lose rows: its maxlen is {most}, and there are {rows}")
    return deque(chain.from_iterable(deques), most)


def _join_arrays(arrays: Sequence[Any], where: str) -> Any:
    _same_kind((f"{array.dtype} {array.shape[1:]}" for array in arrays), where)
    return np.concatenate(list(arrays))


def _tensor_kind(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype} {tuple(tensor.shape[1:])} on {tensor.device}{layout}"


def _join_dense(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    _same_kind(map(_tensor_kind, tensors), where)
    return torch.cat(list(tensors))


def _cut_coo(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    part = torch.narrow_copy(tensor, 0, start, stop - start)
    return part.coalesce() if tensor.is_coalesced() else part


def _join_coo(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    _same_kind((f"{_tensor_kind(t)}, {t.sparse_dim()} dimensions sparse" for t in tensors), where)
    joined = torch.cat(list(tensors))
    return joined.coalesce() if all(t.is_coalesced() for t in tensors) else joined


def _cut_csr(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    ends = tensor.crow_indices()[start : stop + 1]
    first, last = int(ends[0]), int(ends[-1])
    return torch.sparse_csr_tensor(
        ends - first,
        tensor.col_indices()[first:last],
        tensor.values()[first:last],
        (stop - start, *tensor.shape[1:]),
        check_invariants=False,
    )


def _join_csr(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    _same_kind(map(_tensor_kind, tensors), where)
    ends = [tensors[0].crow_indices()[:1]]
    values = 0
    for tensor in tensors:
        ends.append(tensor.crow_indices()[1:] + values)
        values += len(tensor.values())
    return torch.sparse_csr_tensor(
        torch.cat(ends),
        torch.cat([tensor.col_indices() for tensor in tensors]),
        torch.cat([tensor.values() for tensor in tensors]),
        (sum(map(len, tensors)), *tensors[0].shape[1:]),
        check_invariants=False,
    )


LIST = Block(_slice, _join_lists)
DEQUE = Block(_cut_deque, _join_deques)
ARRAY = Block(_slice, _join_arrays)
DENSE = Block(_slice, _join_dense)
SPARSE_COO = Block(_cut_coo, _join_coo)
SPARSE_CSR = Block(_cut_csr, _join_csr)
