"""Where the tests of streams run: a GPU, or a stand-in that shows whether the tests work.

A bench is what a handler's methods use in place of torch.cuda: work that goes to the current
stream, and delays in it. On the stand-in (standin.py) it is done later, by a thread for each
stream, so that a missing wait gives wrong answers there too.
"""

from __future__ import annotations

from typing import Any

import torch

from micro_batch_handler.pipeline.device.accelerator import Accelerator, accelerator_of
from tests.gpu.standin import OnDevice, StandIn

__all__ = ["GpuBench", "HostBench"]


class GpuBench:
    """One GPU; the current stream is PyTorch's."""

    columns = 2**18
    """So wide are rows: 1 MiB, a block of its own in the caching allocator."""

    copy_delay_ms = 0.0

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        accelerator = accelerator_of(self.device)
        assert isinstance(accelerator, Accelerator), f"no streams on {self.device}"
        self.accelerator: Any = accelerator
        self.name = torch.cuda.get_device_name(self.device)
        self._cycles_per_ms = self._measure()

    def mark(self) -> Any:
        """An event in the current stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def sleep(self, ms: float) -> None:
        """Delay what comes after it in the current stream."""
        if ms:
            torch.cuda._sleep(int(ms * self._cycles_per_ms))

    def triple(self, batch: torch.Tensor) -> torch.Tensor:
        """3 x + 1, on the device."""
        return batch * 3 + 1

    def host(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the host's memory; waits for the current stream."""
        return tensor.cpu()

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.device)

    def make_deaf(self) -> None:
        """From now on new streams wait for no event."""
        device = self.device

        class Deaf(torch.cuda.Stream):
            def wait_event(self, event: Any) -> None:
                """Go on."""

        self.accelerator.stream = lambda: Deaf(device)

    def make_hasty(self) -> None:
        """From now on nobody waits for new events on the host."""

        class Hasty(torch.cuda.Event):
            def synchronize(self) -> None:
                """Go on."""

        self.accelerator.event = lambda: Hasty(enable_timing=True)

    def close(self) -> None:
        """Leave an idle device with no memory held for nobody."""
        self.synchronize()
        torch.cuda.empty_cache()

    def _measure(self) -> float:
        cycles, found = 5_000_000, 0.0
        for _ in range(3):  # the first includes loading the kernel
            start = self.mark()
            torch.cuda._sleep(cycles)
            stop = self.mark()
            stop.synchronize()
            found = cycles / start.elapsed_time(stop)
        return found


class HostBench:
    """The stand-in, on a machine without GPU."""

    columns = 64
    copy_delay_ms = 30.0
    """Its copies take no time by themselves, so none could be seen at the same time."""

    device = torch.device("cpu")
    name = "stand-in"

    def __init__(self) -> None:
        self.accelerator: Any = StandIn()

    def mark(self) -> Any:
        """An event in the current stream."""
        event = self.accelerator.event()
        event.record(self.accelerator.current)
        return event

    def sleep(self, ms: float) -> None:
        """Delay what comes after it in the current stream."""
        if ms:
            self.accelerator.delay(ms)

    def triple(self, batch: torch.Tensor) -> torch.Tensor:
        """3 x + 1, on the device."""
        assert isinstance(batch, OnDevice), "expected a tensor on the device"
        return self.accelerator.launch(lambda plain: plain * 3 + 1, batch)

    def host(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor in the host's memory; waits for the current stream."""
        return self.accelerator.fetch(tensor)

    def synchronize(self) -> None:
        """Wait for all streams."""
        self.accelerator.synchronize()

    def make_deaf(self) -> None:
        """From now on no stream waits for an event."""
        self.accelerator.deaf = True

    def make_hasty(self) -> None:
        """From now on nobody waits for events on the host."""
        self.accelerator.hasty = True

    def close(self) -> None:
        """End the streams' threads."""
        self.accelerator.close()
