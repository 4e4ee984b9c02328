"""What PyTorch keeps per thread: taken where the model was loaded, set in each lane.

A new thread starts with gradients on and on the first device, whatever the thread that loaded the
model has set (https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradients).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["ThreadState"]


@dataclass(frozen=True)
class ThreadState:
    """PyTorch's settings of one thread."""

    grad_enabled: bool
    device_index: int | None
    """The current device of the accelerator; None where there is none or it is not in use."""

    default_device: torch.device | None
    """Where tensors are made; None for the CPU, as in a new thread."""

    @classmethod
    def capture(cls) -> ThreadState:
        """The settings of the calling thread."""
        # Asking for the device would start the GPU runtime in a process that does not use it.
        in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        default_device = torch.get_default_device()
        return cls(
            torch.is_grad_enabled(),
            torch.cuda.current_device() if in_use else None,
            None if default_device.type == "cpu" else default_device,
        )

    def apply(self) -> None:
        """Give the calling thread these settings."""
        torch.set_grad_enabled(self.grad_enabled)
        if self.device_index is not None:
            torch.cuda.set_device(self.device_index)
        if self.default_device is not None:
            torch.set_default_device(self.default_device)
