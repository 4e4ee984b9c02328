"""A device with streams, in the host's memory: work is done later, by a thread for each stream.

Like CUDA's in what matters here: streams know no order among each other but events; a freed block
is given to the next tensor of the stream it was made in, whatever other streams still read from it
(and is poisoned meanwhile); what is launched keeps nothing alive.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

__all__ = ["OnDevice", "StandIn"]

PATIENCE_S = 30
POISON = 255
"""As bytes of a float it is NaN."""


class OnDevice(torch.Tensor):
    """A tensor of the stand-in; its values come when its stream has come so far."""


class _Event:
    def __init__(self, device: StandIn) -> None:
        self._device = device
        self.come: threading.Event | None = None
        self._time_s = 0.0

    def record(self, stream: _Stream) -> None:
        self.come = come = threading.Event()

        def arrive() -> None:
            self._time_s = time.perf_counter()
            come.set()

        stream.submit(arrive)

    def query(self) -> bool:
        return self.come is None or self.come.is_set()

    def synchronize(self) -> None:
        if self.come is not None and not self._device.hasty:
            assert self.come.wait(PATIENCE_S), "the device hangs"

    def elapsed_time(self, later: _Event) -> float:
        if not (self.query() and later.query()):
            raise RuntimeError("both events must have come")
        return (later._time_s - self._time_s) * 1000


class _Stream:
    def __init__(self, device: StandIn) -> None:
        self._device = device
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.free = defaultdict[int, list[torch.Tensor]](list)
        self._thread = threading.Thread(target=self._do, name="stand-in-stream", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], None] | None) -> None:
        self._work.put(work)

    def wait_event(self, event: _Event) -> None:
        come = event.come
        if come is not None and not self._device.deaf:
            self.submit(lambda: _must(come.wait(PATIENCE_S)))

    def close(self) -> None:
        self.submit(None)
        self._thread.join(PATIENCE_S)

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _must(come: bool) -> None:
    assert come, "an event never comes"


class StandIn:
    """See pipeline/device/accelerator.py for what its methods promise."""

    def __init__(self) -> None:
        self.device = SimpleNamespace(type=None)
        self.deaf = False
        """Whether streams do not wait for events."""
        self.hasty = False
        """Whether threads do not wait for events."""
        self.pinned: list[torch.Tensor] = []
        """Every pinned buffer that was made."""
        self._streams: list[_Stream] = []
        self._here = threading.local()
        self._default = self.stream()

    @property
    def current(self) -> _Stream:
        return getattr(self._here, "stream", self._default)

    def delay(self, ms: float) -> None:
        """Let the current stream do nothing for so long."""
        never = threading.Event()
        self.current.submit(lambda: never.wait(ms / 1000))

    def launch(self, kernel: Callable[[torch.Tensor], torch.Tensor], batch: OnDevice) -> OnDevice:
        """A tensor with what the kernel makes of the batch, later."""
        made, source = self._new_like(batch), _plain(batch)
        target = _plain(made)
        self.current.submit(lambda: target.copy_(kernel(source)))
        return made

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def stream(self) -> _Stream:
        stream = _Stream(self)
        self._streams.append(stream)
        return stream

    def event(self) -> _Event:
        return _Event(self)

    def current_stream(self) -> _Stream:
        return self.current

    def empty_cache(self) -> None:
        for stream in self._streams:
            stream.submit(stream.free.clear)

    def keep_all(self) -> None:
        raise AssertionError("the stand-in cannot be lost")

    @contextmanager
    def using(self, stream: _Stream) -> Iterator[None]:
        before = self.current
        self._here.stream = stream
        try:
            yield
        finally:
            self._here.stream = before

    def synchronize(self) -> None:
        marks = [threading.Event() for _ in self._streams]
        for stream, mark in zip(self._streams, marks, strict=True):
            stream.submit(mark.set)
        for mark in marks:
            assert mark.wait(PATIENCE_S), "the device hangs"

    def is_here(self, leaf: Any) -> bool:
        return isinstance(leaf, OnDevice)

    def is_on_host(self, leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnDevice)

    def size_bytes(self, leaf: Any) -> int | None:
        return leaf.numel() * leaf.element_size()

    def pinned_buffer(self, size_bytes: int) -> torch.Tensor:
        self.pinned.append(torch.empty(size_bytes, dtype=torch.uint8))
        return self.pinned[-1]

    def place(self, leaf: torch.Tensor, buffer: torch.Tensor, start: int) -> torch.Tensor:
        stop = start + leaf.numel() * leaf.element_size()
        return buffer[start:stop].view(leaf.dtype).view(leaf.shape)

    def fill(self, place: torch.Tensor, leaf: torch.Tensor) -> None:
        place.copy_(leaf)

    def upload(self, leaf: torch.Tensor, *, wait: bool) -> OnDevice:
        made = self._new_like(leaf)
        target = _plain(made)
        self.current.submit(lambda: target.copy_(leaf))
        if wait:
            self._wait()
        return made

    def download(self, leaf: OnDevice, place: torch.Tensor) -> None:
        source = _plain(leaf)
        self.current.submit(lambda: place.copy_(source))

    def fetch(self, leaf: OnDevice) -> torch.Tensor:
        source = _plain(leaf)
        copy = torch.empty_like(source)
        self.current.submit(lambda: copy.copy_(source))
        self._wait()
        return copy

    def copy_of(self, place: torch.Tensor) -> torch.Tensor:
        return place.clone()

    def _wait(self) -> None:
        mark = threading.Event()
        self.current.submit(mark.set)
        assert mark.wait(PATIENCE_S), "the device hangs"

    def _new_like(self, leaf: torch.Tensor) -> OnDevice:
        stream, size = self.current, leaf.numel() * leaf.element_size()
        try:
            block = stream.free[size].pop()
        except IndexError:
            block = torch.full((size,), POISON, dtype=torch.uint8)
        made = block.view(leaf.dtype).view(leaf.shape).as_subclass(OnDevice)

        def free() -> None:
            stream.submit(lambda: block.fill_(POISON))
            stream.free[size].append(block)

        weakref.finalize(made, free).atexit = False
        return made


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Its values, which do not keep it from being freed."""
    return tensor.as_subclass(torch.Tensor)
