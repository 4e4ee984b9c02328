"""PyTorch's settings of a thread, copied from the thread that loaded the model to each lane.

A new thread starts with gradients on, without autocast and on the first device, whatever the
loading thread has set
(https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradients). The stream is no
part of them: streams.py sets it for each call.

Threads of PyTorch inside a call are each lane's own setting, for which see `use_threads`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ThreadState", "use_threads"]

_here = threading.local()


@dataclass(frozen=True)
class ThreadState:
    """PyTorch's settings of one thread."""

    grad_enabled: bool
    inference_mode: bool
    autocast: dict[str, tuple[bool, torch.dtype]]
    """(whether it is on, its type) for each kind of device."""

    device: torch.device | None
    """The accelerator's current device; None if there is none or it is not in use."""

    default_device: torch.device | None
    """Where new tensors are made; None for the CPU, as in a new thread."""

    @classmethod
    def capture(cls, kind: str | None = None) -> ThreadState:
        """The settings of the calling thread.

        Args:
            kind: of the device that the handler uses (`cuda`); None for the CPU.
        """
        module: Any = None if kind is None else torch.get_device_module(kind)
        default_device = torch.get_default_device()
        return cls(
            grad_enabled=torch.is_grad_enabled(),
            inference_mode=torch.is_inference_mode_enabled(),
            autocast={
                each: (torch.is_autocast_enabled(each), torch.get_autocast_dtype(each))
                for each in {"cpu", kind or "cpu"}
            },
            device=None if kind is None else torch.device(kind, module.current_device()),
            default_device=None if default_device.type == "cpu" else default_device,
        )

    def apply(self) -> None:
        """Give the calling thread these settings, for as long as it lives."""
        if self.inference_mode:
            _here.inference_mode = torch.inference_mode()
            _here.inference_mode.__enter__()
        torch.set_grad_enabled(self.grad_enabled)
        for kind, (enabled, dtype) in self.autocast.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        if self.device is not None:
            module: Any = torch.get_device_module(self.device)
            # Setting the first device, where a new thread is, could make a context there.
            if module.current_device() != self.device.index:
                module.set_device(self.device)
        if self.default_device is not None:
            torch.set_default_device(self.default_device)


def use_threads(count: int) -> None:
    """Let PyTorch use so many threads inside the calls of the calling thread.

    At its first call in a thread PyTorch takes over the number that any thread has set last, also
    if this one has set its own before (`lazy_init_num_threads` in
    https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/Parallel.h). Asking for the number
    counts as such a call.
    """
    torch.get_num_threads()
    torch.set_num_threads(count)
