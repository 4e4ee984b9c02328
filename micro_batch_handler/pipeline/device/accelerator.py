"""The device that a model runs on: its streams, events, memory and copies.

It uses PyTorch's module for the kind of device (`torch.cuda`, `torch.xpu`, …) and not the generic
`torch.Stream`: the two must not be mixed (https://github.com/pytorch/pytorch/issues/173792), and
handlers use the former.
"""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import AbstractContextManager
from typing import Any

import torch

__all__ = ["Accelerator", "accelerator_in_use", "accelerator_of"]

logger = logging.getLogger(__name__)

HOST = torch.device("cpu")

_kept: list[list[torch.Tensor]] = []


class Accelerator:
    """A device with streams; its work is done later than it is asked for.

    Methods that copy or compute use the calling thread's current stream. Tests pass a device of
    their own with the same methods.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)

    def stream(self) -> Any:
        """A queue of work, with `wait_event(event)`; it does not wait for the default stream.

        PyTorch takes it from a pool of 32, so that two of them may be the same queue.
        """
        return self._module.Stream(self.device)

    def event(self) -> Any:
        """A mark: `record(stream)`, `query()`, `synchronize()` and `elapsed_time(later)` in ms.

        The time is that of the device, not that of the launch. A thread that waits for it sleeps,
        where the device can wake it: by default it would keep a core busy, which other threads and
        workers need to prepare what comes next.
        """
        if self.device.type == "cuda":
            return self._module.Event(enable_timing=True, blocking=True)
        return self._module.Event(enable_timing=True)

    def current_stream(self) -> Any:
        """The default stream, unless the handler or its caller has set another in this thread."""
        return self._module.current_stream(self.device)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """In the body this thread's work goes to `stream`, and to the stream's device."""
        return _Using(self._module.device(self.device), self._module.stream(stream))

    def use_here(self) -> None:
        """Make this the current device of the calling thread.

        A new thread is on the first device. If it only asks for an event of another one, the
        runtime takes some 500 MB of the first (https://github.com/meta-pytorch/torchcomms/pull/777).
        """
        self._module.set_device(self.device)

    def synchronize(self) -> None:
        """Wait until the work of all streams of the device is done."""
        self._module.synchronize(self.device)

    def empty_cache(self) -> None:
        """Give free memory back to the device; PyTorch's allocator caches it for its stream."""
        self._module.empty_cache()

    def keep_all(self) -> None:
        """Hold a reference to every tensor until the process ends, since the device is lost.

        Whoever lets go of a tensor, PyTorch then frees its memory and first records an event, in a
        destructor. On a lost device that fails and aborts the process before the batch is answered
        (https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/core/CachingHostAllocator.h,
        `free`, and c10/cuda/CUDACachingAllocator.cpp, `insert_events`). The host's tensors are kept
        too, since a lost device cannot say which of them are page-locked.
        """
        # By type(), since looking at `__class__` may run code of the object.
        _kept.append([each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)])

    def is_here(self, leaf: Any) -> bool:
        """Whether this is a tensor on a device of this kind.

        It may be on another device than this one: the handler decides where its work goes.
        """
        return isinstance(leaf, torch.Tensor) and leaf.device.type == self.device.type

    def is_on_host(self, leaf: Any) -> bool:
        """Whether this is a tensor in the CPU's memory that a stage may want on the device.

        Sparse tensors are. A tensor without a dimension is not: kernels take such a number from the
        host, and only there can it be compared with another.
        """
        return isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" and leaf.ndim > 0

    def size_bytes(self, leaf: Any) -> int | None:
        """What the tensor takes in a page-locked buffer; None if it must be copied without one.

        Only plain dense tensors go through a buffer. A tensor of a subclass may have more than one
        part, gradients would be cut off, and copies from another device do not belong into the
        streams of this one.
        """
        plain = type(leaf) is torch.Tensor and leaf.layout == torch.strided and not leaf.is_nested
        if not plain or leaf.is_quantized or leaf.is_conj() or leaf.is_neg():
            return None
        if leaf.requires_grad or leaf.device not in (self.device, HOST):
            return None
        size_bytes: int = leaf.numel() * leaf.element_size()
        return size_bytes

    def pinned_buffer(self, size_bytes: int) -> Any:
        """A page-locked buffer of the host; raises RuntimeError if the system refuses it."""
        return torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def lock_pages(self, address: int, size_bytes: int) -> bool:
        """Page-lock memory that something else has made; False if the system refuses that.

        Tensors in it count as pinned: copies to the device without waiting read it later, and
        PyTorch does not keep it for them, since its own allocator has not made it.
        """
        if not hasattr(self._module, "cudart"):
            return False
        codes: list[int] = []

        def register() -> None:
            runtime = self._module.cudart()
            with self._module.device(self.device):
                codes.append(int(runtime.cudaHostRegister(address, size_bytes, 0)))

        # The runtime remembers an error for the thread's next kernel, which would fail too.
        thread = threading.Thread(target=register, name="mbh-lock-pages")
        thread.start()
        thread.join()
        return codes == [0]

    def unlock_pages(self, address: int) -> None:
        """Undo `lock_pages`; waits for copies that still read there.

        Raises:
            RuntimeError: the device is lost.
        """
        with self._module.device(self.device):
            self.synchronize()
            self._module.cudart().cudaHostUnregister(address)

    def place(self, leaf: torch.Tensor, buffer: Any, start: int) -> Any:
        """A host tensor like `leaf`, from byte `start` of the buffer, with unset values.

        Its strides are those that `leaf.to(…)` would give the copy (channels last stays so).
        """
        stop = start + leaf.numel() * leaf.element_size()
        strides = torch.empty_like(leaf, device="meta").stride()
        return buffer[start:stop].view(leaf.dtype).as_strided(leaf.shape, strides)

    def fill(self, place: torch.Tensor, leaf: torch.Tensor) -> None:
        """Copy a host tensor to its place, at once."""
        place.copy_(leaf.detach())

    def upload(self, leaf: torch.Tensor, *, wait: bool) -> Any:
        """A copy on the device; made later unless `wait`, and then of a page-locked tensor."""
        return leaf.to(self.device, non_blocking=not wait)

    def download(self, leaf: torch.Tensor, place: torch.Tensor) -> None:
        """Copy a tensor of the device to its place, later."""
        place.copy_(leaf.detach(), non_blocking=True)

    def fetch(self, leaf: torch.Tensor) -> Any:
        """A copy in the host's memory; waits for it."""
        return leaf.detach().cpu()

    def copy_of(self, place: torch.Tensor) -> Any:
        """A host tensor with the values of the place and memory of its own."""
        return place.clone(memory_format=torch.preserve_format)


class _Using:
    """This thread's work goes to a stream and its device, and then where it went before.

    `torch.cuda.stream` alone would end by setting the device on which the thread was before, which
    makes a context there if there is none; `torch.cuda.device` does not.
    """

    def __init__(self, device: Any, stream: Any) -> None:
        self._device = device
        self._stream = stream

    def __enter__(self) -> None:
        self._device.__enter__()
        self._stream.__enter__()

    def __exit__(self, *error: object) -> None:
        self._stream.__exit__(*error)
        self._device.__exit__(*error)


def accelerator_in_use() -> Accelerator | None:
    """The current CUDA device, if this process has memory of any."""
    # TorchServe's BaseHandler initializes torch.cuda when it is imported, and takes no memory.
    # Asking for more would start the GPU runtime in a process that does not use it.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = range(torch.cuda.device_count())
        if any(torch.cuda.memory_reserved(device) for device in devices):
            return Accelerator(torch.device("cuda", torch.cuda.current_device()))
    return None


def accelerator_of(device: Any) -> Accelerator | None:
    """The accelerator that a handler has loaded its model on; None for a device without streams.

    Args:
        device: the handler's `device`; None for the current one, if any is in use.
    """
    if device is None:
        return accelerator_in_use()
    try:
        device = torch.device(device)
        module: Any = torch.get_device_module(device)
        if device.type == "cpu" or not module.is_available():
            return None
        if device.index is None:
            device = torch.device(device.type, module.current_device())
        accelerator = Accelerator(device)
        accelerator.stream()
        accelerator.event()
    except (AttributeError, TypeError, RuntimeError) as error:
        logger.warning("no streams on %s: %s. Its stages share one queue of work", device, error)
        return None
    return accelerator
