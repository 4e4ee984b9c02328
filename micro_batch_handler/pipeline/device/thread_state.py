"""What PyTorch keeps per thread: taken where the model was loaded, set in each lane.

A new thread starts with gradients on, without autocast and on the first device, whatever the thread
that loaded the model has set
(https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradients). The stream is set
for each call, in streams.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["ThreadState"]

_here = threading.local()


@dataclass(frozen=True)
class ThreadState:
    """PyTorch's settings of one thread."""

    grad_enabled: bool
    inference_mode: bool
    autocast: dict[str, tuple[bool, torch.dtype]]
    """Whether it is on and its type, for each kind of device."""

    device: torch.device | None
    """The current device of the accelerator; None where there is none or it is not in use."""

    default_device: torch.device | None
    """Where tensors are made; None for the CPU, as in a new thread."""

    @classmethod
    def capture(cls, kind: str | None = None) -> ThreadState:
        """The settings of the calling thread.

        Args:
            kind: of device that the handler uses (`cuda`); None for the CPU.
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
            torch.get_device_module(self.device).set_device(self.device)
        if self.default_device is not None:
            torch.set_default_device(self.default_device)
