"""What an error says about the device: that its memory has run out, or that it is lost."""

from __future__ import annotations

import torch

__all__ = ["device_is_lost", "is_out_of_memory"]

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)

OUT_OF_MEMORY_SIGNS = ("cublas_status_alloc_failed", "cudnn_status_alloc_failed")
"""What libraries that allocate memory of the device themselves say, in a plain RuntimeError."""

OUT_OF_MEMORY_CODE = 2
"""The code cudaErrorMemoryAllocation in a `torch.AcceleratorError`: the runtime itself, not
PyTorch's allocator, wanted memory for an event, a page-locked buffer or a kernel that it loads.
https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html"""

LOST_SIGNS = (
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

REFUSED_SIGNS = (
    "invalid argument",
    "invalid configuration argument",
    "too many resources requested for launch",
    "invalid device function",
    "no kernel image is available",
    "operation not supported",
    "operation not permitted when stream is capturing",
    "due to a previous error during capture",
)
"""What the runtime says when it has refused one call: it was too large for a kernel perhaps, or a
handler was capturing a CUDA graph for which other threads' calls are not permitted.

Nothing was started, and the device is as it was. Any other unknown error of the runtime counts as a
lost device: a worker that starts afresh costs less than one that fails for ever.
"""

_AcceleratorError = getattr(torch, "AcceleratorError", ())  # since PyTorch 2.8


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory of the host or the device has run out; later calls may succeed."""
    if isinstance(error, OUT_OF_MEMORY):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = _text_of(error)
    if isinstance(error, _AcceleratorError):
        code = getattr(error, "error_code", None)
        return code == OUT_OF_MEMORY_CODE or "out of memory" in text
    return any(sign in text for sign in OUT_OF_MEMORY_SIGNS)


def device_is_lost(error: BaseException) -> bool:
    """Whether no later call on the device can succeed."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    text = _text_of(error)
    if isinstance(error, _AcceleratorError):
        return not any(sign in text for sign in REFUSED_SIGNS)
    return any(sign in text for sign in LOST_SIGNS)


def _text_of(error: BaseException) -> str:
    try:
        return str(error).lower()
    except BaseException:
        return ""  # a class of the user's, which fails itself
