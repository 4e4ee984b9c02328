"""Payloads as a short pickle and the large buffers beside it, which are copied only once.

    dump(payload)                   -> data, buffers    no copy
    place(buffers, view, start)     -> places           the one copy, into shared memory
    load(data, views(view, places)) -> payload          no copy; its tensors lie in the memory

It relies on protocol 5 of pickle (https://peps.python.org/pep-0574/), as numpy does, and adds dense
tensors of the CPU. All else is pickled as always.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from micro_batch_handler.hosting.arena import aligned

__all__ = ["Pickled", "dump", "dump_whole", "load", "place", "placed_bytes", "views"]

INLINE_BYTES = 1024
"""Smaller buffers stay in the pickle: a copy there is cheaper than a place of their own."""

UNLOCKED_BYTES = 1 << 20
"""Copies from this size on let other threads run.

A thread that lets go of the interpreter's lock waits up to 5 ms for it beside a busy one, which is
longer than many smaller copies take (0.1 ms for this size).
"""

_AT_ONCE = {torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool}
"""Frequent types that numpy knows too."""


class Pickled(NamedTuple):
    """A payload in parts."""

    data: bytes
    buffers: list[memoryview]
    """Of bytes, without gaps, in the memory of the payload."""


def dump(payload: Any) -> Pickled:
    """The payload in parts, to be copied before its tensors and arrays change.

    Raises:
        Exception: whatever pickle raises for what cannot be pickled.
    """
    buffers: list[memoryview] = []

    def stays_inline(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < INLINE_BYTES:
            return True
        buffers.append(view)
        return False

    data = io.BytesIO()
    _Pickler(data, protocol=5, buffer_callback=stays_inline).dump(payload)
    return Pickled(data.getvalue(), buffers)


def dump_whole(payload: Any) -> bytes:
    """The payload in one piece, with all that `dump` leaves beside it."""
    data = io.BytesIO()
    _Pickler(data, protocol=5).dump(payload)
    return data.getvalue()


def load(data: bytes | memoryview, buffers: Iterable[memoryview]) -> Any:
    """The payload; its large tensors and arrays lie in the buffers, and keep them alive.

    Args:
        data: from `dump`, of a process that can be trusted.
        buffers: writable, in the order of `dump`.

    Raises:
        Exception: whatever pickle raises for what cannot be loaded.
    """
    return pickle.loads(data, buffers=buffers)  # noqa: S301  (only peers of the same user)


def placed_bytes(buffers: Iterable[memoryview]) -> int:
    """What `place` needs."""
    return sum(aligned(buffer.nbytes) for buffer in buffers)


def place(buffers: Iterable[memoryview], view: memoryview, start: int) -> list[tuple[int, int]]:
    """Copy the buffers into the view, from byte `start` on, a multiple of 256.

    Returns:
        Where each begins, and how many bytes it has.
    """
    places = []
    for buffer in buffers:
        size_bytes = buffer.nbytes
        target = view[start : start + size_bytes]
        if size_bytes < UNLOCKED_BYTES:
            target[:] = buffer
        else:
            np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(buffer, np.uint8))
        places.append((start, size_bytes))
        start += aligned(size_bytes)
    return places


def views(view: memoryview, places: Iterable[tuple[int, int]]) -> list[memoryview]:
    """The parts of the view at these places, for `load`."""
    return [view[start : start + size_bytes] for start, size_bytes in places]


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is torch.Tensor and not (value.is_cpu or value.is_meta):
            # In an object that no one looks into; a member has no device to load it on.
            copied = value.detach().cpu()
            return _reduce_tensor(copied) if _is_plain(copied) else copied.__reduce_ex__(5)
        if kind is torch.Tensor and _is_plain(value):
            return _reduce_tensor(value)
        if kind is np.ndarray and not value.flags.forc:
            return _reduce_array(value)
        return NotImplemented


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether shape, strides and values are all there is to the tensor."""
    return (
        tensor.is_cpu
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_quantized or tensor.__dict__)
    )


def _reduce_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if not _is_dense(tensor):
        tensor = tensor.clone(memory_format=torch.preserve_format)  # its order of dimensions
    flat = tensor
    if tensor.dtype not in _AT_ONCE or not tensor.is_contiguous():
        flat = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
    buffer = pickle.PickleBuffer(flat.numpy().data)
    return _tensor, (buffer, tensor.dtype, tuple(tensor.shape), tensor.stride())


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the values lie side by side in memory, in whatever order of the dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _tensor(
    buffer: Any, dtype: torch.dtype, shape: Sequence[int], strides: Sequence[int]
) -> torch.Tensor:
    if 0 in shape:  # torch.frombuffer takes no empty one
        return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
    return torch.frombuffer(buffer, dtype=dtype).as_strided(shape, strides)


def _reduce_array(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    """A contiguous array, which numpy pickles without a copy, and its dimensions' order.

    An image as height, width, channels that was transposed needs no copy for this.
    """
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    contiguous = np.ascontiguousarray(array.transpose(order))
    return np.transpose, (contiguous, [order.index(axis) for axis in range(array.ndim)])
