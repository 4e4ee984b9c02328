"""Tensors as blocks of rows: dense, sparse by coordinates (COO), sparse by rows (CSR)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from micro_batch_handler.pipeline.payloads.block import Block, first_dimension, same_kind

__all__ = ["tensor_block"]


def tensor_block(tensor: torch.Tensor) -> Block | None:
    """How its rows are handled; None where they cannot be cut and joined without loss.

    Quantized tensors have one scale for all rows. Nested ones share their offsets with other
    columns, which can be added to them only as long as they do.
    """
    if tensor.is_nested or tensor.is_quantized or not tensor.ndim:
        return None
    if tensor.layout == torch.strided:
        return DENSE
    if tensor.layout == torch.sparse_coo:
        return COORDINATES if tensor.sparse_dim() else None
    return ROWS if tensor.layout == torch.sparse_csr and tensor.crow_indices().ndim == 1 else None


def _join_dense(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    same_kind(map(_kind, tensors), where)
    return torch.cat(list(tensors))


def _join_coordinates(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    same_kind((f"{_kind(t)}, {t.sparse_dim()} dimensions sparse" for t in tensors), where)
    joined = torch.cat(list(tensors))
    return joined.coalesce() if all(t.is_coalesced() for t in tensors) else joined


def _cut_coordinates(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    part = torch.narrow_copy(tensor, 0, start, stop - start)
    return part.coalesce() if tensor.is_coalesced() else part


def _cut_rows(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    ends = tensor.crow_indices()[start : stop + 1]
    first, last = int(ends[0]), int(ends[-1])
    return torch.sparse_csr_tensor(
        ends - first,
        tensor.col_indices()[first:last],
        tensor.values()[first:last],
        (stop - start, *tensor.shape[1:]),
        check_invariants=False,
    )


def _join_rows(tensors: Sequence[torch.Tensor], where: str) -> torch.Tensor:
    same_kind(map(_kind, tensors), where)
    ends = [tensors[0].crow_indices()[:1]]
    values = 0
    for tensor in tensors:
        ends.append(tensor.crow_indices()[1:] + values)
        values += len(tensor.values())
    return torch.sparse_csr_tensor(
        torch.cat(ends),
        torch.cat([tensor.col_indices() for tensor in tensors]),
        torch.cat([tensor.values() for tensor in tensors]),
        (sum(map(first_dimension, tensors)), *tensors[0].shape[1:]),
        check_invariants=False,
    )


def _kind(tensor: torch.Tensor) -> str:
    layout = "" if tensor.layout == torch.strided else f", {tensor.layout}"
    return f"{tensor.dtype} {tuple(tensor.shape[1:])} on {tensor.device}{layout}"


DENSE = Block(first_dimension, lambda tensor, start, stop: tensor[start:stop], _join_dense)
COORDINATES = Block(
    first_dimension,
    _cut_coordinates,
    _join_coordinates,
)
ROWS = Block(first_dimension, _cut_rows, _join_rows)
