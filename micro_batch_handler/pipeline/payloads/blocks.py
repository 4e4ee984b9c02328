"""Which blocks of rows there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.block import (
    Block,
    Uncuttable,
    first_dimension,
    same_kind,
)
from micro_batch_handler.pipeline.payloads.frames import frame_block
from micro_batch_handler.pipeline.payloads.tensors import tensor_block

__all__ = ["block_of"]


def block_of(payload: Any) -> Block | None:
    """How rows of this kind are handled; None for what is no block of rows.

    What cannot be cut and joined without loss is none: masked and record arrays, for example.
    """
    if isinstance(payload, list):
        return LIST
    if isinstance(payload, torch.Tensor):
        return tensor_block(payload)
    if type(payload) is np.ndarray:
        return ARRAY if payload.ndim else None
    return DEQUE if type(payload) is deque else frame_block(payload)


def _join_arrays(arrays: Sequence[Any], where: str) -> Any:
    same_kind((f"{array.dtype} {array.shape[1:]}" for array in arrays), where)
    return np.concatenate(list(arrays))


def _join_deques(deques: Sequence[deque[Any]], where: str) -> deque[Any]:
    same_kind((f"deque with maxlen {each.maxlen}" for each in deques), where)
    most, rows = deques[0].maxlen, sum(map(len, deques))
    if most is not None and rows > most:
        raise Uncuttable(f"{where} would lose rows: its maxlen is {most}, and there are {rows}")
    return deque(chain.from_iterable(deques), most)


LIST = Block(
    len,
    lambda rows, start, stop: rows[start:stop],
    lambda lists, _where: list(chain.from_iterable(lists)),
)
DEQUE = Block(
    len, lambda rows, start, stop: deque(islice(rows, start, stop), rows.maxlen), _join_deques
)
ARRAY = Block(first_dimension, lambda array, start, stop: array[start:stop], _join_arrays)
