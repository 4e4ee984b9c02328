"""A device that is lost to this process: how that is known, and what must not be freed then.

Freeing memory that streams have used makes PyTorch record an event first, in a destructor. On a
lost device that fails, and the process is aborted before the batch is answered
(https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/core/CachingHostAllocator.h, `free`, for
page-locked memory; c10/cuda/CUDACachingAllocator.cpp, `insert_events`, for the device's).
"""

from __future__ import annotations

import gc
from typing import Any

import torch

from micro_batch_handler.pipeline.memory import is_out_of_memory

__all__ = ["device_is_lost", "keep_all"]

STICKY = (
    "device-side assert",
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "uncorrectable ecc",
    "hardware stack error",
)
"""What the runtime says when the device is lost to this process: every later call fails too.

https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html, the errors after which "the
process must be terminated and relaunched".
"""

REFUSED = (
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested for launch",
    "invalid device function",
    "no kernel image is available",
    "operation not supported",
)
"""What it says when it has refused one call, which was too large for a kernel perhaps; nothing was
started and the device is as it was. Anything else that is not known counts as lost: a worker that
starts afresh costs less than one that fails for ever."""

_kept: list[list[Any]] = []


def device_is_lost(error: BaseException) -> bool:
    """Whether the error means that no later call on the device can succeed."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    accelerator_error = getattr(torch, "AcceleratorError", ())  # since PyTorch 2.8
    try:
        text = str(error).lower()
    except BaseException:
        return isinstance(error, accelerator_error)
    if isinstance(error, accelerator_error):
        return not any(sign in text for sign in REFUSED)
    return any(sign in text for sign in STICKY)


def keep_all() -> None:
    """Hold a reference to every tensor that there is until the process ends.

    Whoever holds a tensor, a handler, a frame of a failed call or a library, may let go of it. The
    host's tensors are kept too, since a lost device cannot say which of them are page-locked.
    """
    # By type(), since looking at `__class__` may run code of the object.
    _kept.append([each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)])
