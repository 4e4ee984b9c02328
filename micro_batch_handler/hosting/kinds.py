"""Which payloads of different members may be joined: those of the same kind."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

import numpy as np
import torch

from micro_batch_handler.pipeline.payloads.constants import is_constant, is_scalar
from micro_batch_handler.pipeline.payloads.operations import Payload, PayloadOps, rows_of
from micro_batch_handler.pipeline.payloads.structure import block_of, columns_of

__all__ = ["kind_of"]


def kind_of(payload: Payload, ops: PayloadOps) -> Hashable:
    """Equal for payloads that can be joined, as far as their structure tells.

    Types, columns, constants, and shapes without the rows. What is not made of rows has a kind that
    equals no other. A handler's own hooks join anything.
    """
    if ops.rows_of is not rows_of:
        return None
    # A constant stands beside rows only.
    alone = block_of(payload) is None and is_constant(payload)
    return object() if alone else _kind(payload)


def _kind(payload: Any) -> Hashable:  # noqa: PLR0911  (a case each)
    kind = type(payload)
    if kind is list:
        return (list,)
    if kind is torch.Tensor and payload.ndim and payload.layout is torch.strided:
        return (kind, payload.dtype, tuple(payload.shape[1:]))
    if kind is np.ndarray and payload.ndim:
        return (kind, payload.dtype.str, payload.shape[1:])
    if kind is deque:
        return (kind, payload.maxlen)
    if block_of(payload) is not None:
        return (kind,)  # joining tells whether the rest fits
    if is_constant(payload):
        return _constant(payload)
    columns = columns_of(payload)
    if columns is None:
        return object()
    return (kind, tuple((key, _kind(column)) for key, column in columns.items()))


def _constant(constant: Any) -> Hashable:
    if is_scalar(constant):
        return (type(constant), constant.dtype, constant.item())
    try:
        hash(constant)
    except TypeError:
        return object()
    return (type(constant), constant)
