"""How much memory a model and its workers take, and how much the machine and its GPUs have."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CONTEXT_BYTES",
    "MEMORY_SHARE",
    "Memory",
    "device_bytes",
    "machine_bytes",
    "model_bytes",
]

MEMORY_SHARE = 0.8
"""The share of the memory that workers may take. The rest is for the frontend, whose Java takes
some 350 MiB (benchmarks/README.md, peers: memory with Java and without), and for peaks."""

CONTEXT_BYTES = 512 * 2**20
"""What a process takes of a GPU besides its tensors. On an H200 each of ten workers with a network
of 0.1 GB took 0.9 GB (benchmarks/README.md, gpu), most of which PyTorch reports as reserved."""

_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, which sees its own control group there: version 2, then version 1."""


@dataclass(frozen=True)
class Memory:
    """What a worker takes, and what there is."""

    model_bytes: int
    """The weights; 0 if they are not found."""
    worker_bytes: int
    """A worker, with its model if that is not on a GPU."""
    machine_bytes: int
    """That the machine or the container has."""
    on_device_bytes: int = 0
    """That a worker takes of its GPU."""
    device_bytes: int = 0
    """That a GPU has."""
    devices: int = 0

    @property
    def most_copies(self) -> int:
        """The workers with a model each that fit, at least 1."""
        fit = [_fitting(self.worker_bytes, self.machine_bytes)]
        if self.on_device_bytes:
            fit.append(self.devices * _fitting(self.on_device_bytes, self.device_bytes))
        return max(1, min(fit))

    def of_copies(self, workers: int) -> int:
        """Bytes of the machine that so many workers with a model each take."""
        return workers * self.worker_bytes

    def of_shared(self, workers: int) -> int:
        """Bytes of the machine that so many workers around one model take.

        The process with the model is a worker, too, as far as memory goes.
        """
        if self.on_device_bytes:  # the weights are not on the machine
            return (workers + 1) * self.worker_bytes
        return self.worker_bytes + workers * max(0, self.worker_bytes - self.model_bytes)


def _fitting(each_bytes: int, all_bytes: int) -> int:
    return int(MEMORY_SHARE * all_bytes // each_bytes)


def machine_bytes(root: Path = Path("/")) -> int:
    """The memory of the machine, or of the container if that has less.

    Args:
        root: where the file system begins; a test passes its own.
    """
    import psutil

    found = [int(psutil.virtual_memory().total)]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # no such group; "max"
            found.append(int((root / limit).read_text(encoding="ascii")))
    return min(found)


def model_bytes(handler: Any) -> int:
    """The weights of all networks that are attributes of the handler; 0 if there are none."""
    import torch

    networks = [each for each in vars(handler).values() if isinstance(each, torch.nn.Module)]
    tensors = [each for network in networks for each in (*network.parameters(), *network.buffers())]
    return sum({each.data_ptr(): each.nbytes for each in tensors}.values())


def device_bytes() -> tuple[int, int]:
    """What this process has taken of its GPU at most, and what the GPU has; 0 and 0 without one."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.max_memory_reserved():
        return 0, 0
    total = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return int(torch.cuda.max_memory_reserved()) + CONTEXT_BYTES, total
