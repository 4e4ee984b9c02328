"""The device that a model runs on, as streams.py needs it: streams, events, copies.

The functions of PyTorch's module for the kind of device (`torch.cuda`, `torch.xpu`, …), not the
generic `torch.Stream`: the two must not be mixed (https://github.com/pytorch/pytorch/issues/173792),
and handlers use the former. A test passes a device of its own.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from micro_batch_handler.pipeline.device.lost_device import keep_all

__all__ = ["Accelerator", "TorchAccelerator", "accelerator_in_use", "accelerator_of"]

logger = logging.getLogger(__name__)

HOST = torch.device("cpu")


class Accelerator(Protocol):
    """A device with streams; its work is done later than it is asked for."""

    def stream(self) -> Any:
        """A new queue of work, with `wait_event(event)`."""

    def event(self) -> Any:
        """A mark: `record(stream)`, `query()`, `synchronize()` and `elapsed_time(later)` in ms."""

    def current_stream(self) -> Any:
        """The stream that this thread's work goes to."""

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """In the body this thread's work goes to `stream`."""

    def synchronize(self) -> None:
        """Wait until all work on the device is done."""

    def empty_cache(self) -> None:
        """Give memory that nothing refers to back to the device, for any stream to take."""

    def keep_all(self) -> None:
        """Free nothing any more of what is on the device; it is lost."""

    def is_here(self, leaf: Any) -> bool:
        """Whether this is a tensor on the device."""

    def is_on_host(self, leaf: Any) -> bool:
        """Whether this is a tensor in the host's memory that a stage may want on the device."""

    def size_bytes(self, leaf: Any) -> int | None:
        """What the tensor takes in a pinned buffer; None if it cannot be laid into one."""

    def pinned_buffer(self, size_bytes: int) -> Any:
        """A page-locked buffer of the host; raises RuntimeError if the system refuses it."""

    def place(self, leaf: Any, buffer: Any, start: int) -> Any:
        """A host tensor of the same shape, strides and type, from byte `start` of the buffer."""

    def fill(self, place: Any, leaf: Any) -> None:
        """Copy a host tensor to its place, at once."""

    def upload(self, leaf: Any, *, wait: bool) -> Any:
        """A copy on the device; later, if not `wait`: then the host tensor must be pinned."""

    def download(self, leaf: Any, place: Any) -> None:
        """Copy a tensor of the device to its place, later."""

    def fetch(self, leaf: Any) -> Any:
        """A copy in the host's memory; waits for it."""

    def copy_of(self, place: Any) -> Any:
        """A host tensor with the values of the place and memory of its own."""


class TorchAccelerator:
    """A device of PyTorch's that has streams.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)

    def stream(self) -> Any:
        """One of the pool of 32 of its kind, which does not wait for the default stream."""
        return self._module.Stream(self.device)

    def event(self) -> Any:
        """An event that takes the time: that of the device, not that of the launch."""
        return self._module.Event(enable_timing=True)

    def current_stream(self) -> Any:
        """The default stream, unless the handler or its caller has set another."""
        return self._module.current_stream(self.device)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Sets the current stream, and the current device to the stream's."""
        context: AbstractContextManager[Any] = self._module.stream(stream)
        return context

    def synchronize(self) -> None:
        """Waits for all streams of the device."""
        self._module.synchronize(self.device)

    def empty_cache(self) -> None:
        """Of PyTorch's allocator, which keeps the blocks of each stream for that stream."""
        self._module.empty_cache()

    def keep_all(self) -> None:
        """Keeps every tensor of the process."""
        keep_all()

    def is_here(self, leaf: Any) -> bool:
        """Also on another device of its kind: where its work goes is the handler's choice."""
        return isinstance(leaf, torch.Tensor) and leaf.device.type == self.device.type

    def is_on_host(self, leaf: Any) -> bool:
        """Whether it is in the memory of the CPU, sparse tensors too; none without a dimension.

        Kernels take such a number from the host, and there it can be compared with another.
        """
        return isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu" and leaf.ndim > 0

    def size_bytes(self, leaf: Any) -> int | None:
        """Dense tensors only; not those of a subclass, which may have more than one part.

        Nor what gradients flow through, which a copy by way of a buffer would cut off, or lies on
        another device: copies from there are not asked for in the streams of this one.
        """
        plain = type(leaf) is torch.Tensor and leaf.layout == torch.strided and not leaf.is_nested
        if not plain or leaf.is_quantized or leaf.is_conj() or leaf.is_neg():
            return None
        if leaf.requires_grad or leaf.device not in (self.device, HOST):
            return None
        size_bytes: int = leaf.numel() * leaf.element_size()
        return size_bytes

    def pinned_buffer(self, size_bytes: int) -> torch.Tensor:
        """A tensor of bytes; raises RuntimeError if the system refuses it."""
        return torch.empty(size_bytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def place(self, leaf: torch.Tensor, buffer: torch.Tensor, start: int) -> torch.Tensor:
        """With the strides that `leaf.to(…)` would give the copy (channels last stays so)."""
        stop = start + leaf.numel() * leaf.element_size()
        strides = torch.empty_like(leaf, device="meta").stride()
        return buffer[start:stop].view(leaf.dtype).as_strided(leaf.shape, strides)

    def fill(self, place: torch.Tensor, leaf: torch.Tensor) -> None:
        """A copy within the host's memory."""
        place.copy_(leaf.detach())

    def upload(self, leaf: torch.Tensor, *, wait: bool) -> torch.Tensor:
        """In the current stream."""
        return leaf.to(self.device, non_blocking=not wait)

    def download(self, leaf: torch.Tensor, place: torch.Tensor) -> None:
        """In the current stream."""
        place.copy_(leaf.detach(), non_blocking=True)

    def fetch(self, leaf: torch.Tensor) -> torch.Tensor:
        """In the current stream, which the host waits for."""
        return leaf.detach().cpu()

    def copy_of(self, place: torch.Tensor) -> torch.Tensor:
        """A copy within the host's memory."""
        return place.clone(memory_format=torch.preserve_format)


def accelerator_in_use() -> TorchAccelerator | None:
    """The current CUDA device, if this process uses any."""
    # Asking further would start the GPU runtime in a process that does not use it.
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return TorchAccelerator(torch.device("cuda", torch.cuda.current_device()))
    return None


def accelerator_of(device: Any) -> TorchAccelerator | None:
    """The accelerator that a handler has loaded its model on; None where there are no streams.

    Args:
        device: the handler's `device`; None if it has none, which means the current one, if any is
            in use.
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
        accelerator = TorchAccelerator(device)
        accelerator.stream()
        accelerator.event()
    except (AttributeError, TypeError, RuntimeError) as error:
        logger.warning("no streams on %s: %s. Its stages share one queue of work", device, error)
        return None
    return accelerator
