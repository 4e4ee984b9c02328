"""A device for tests: its work is done late, in any order that events permit.

As `torch.cuda` does it, at its harshest:

- A kernel goes to the stream that is current in the thread which launches it.
- It is done when somebody waits for it, or at a moment that the seed chooses, and sees what is in
  memory then.
- A block is taken from the stream that is current; when its last reference goes, it belongs to
  the next tensor of that stream at once, whatever other streams have still to do with it. That
  tensor's first kernel is played here by one that fills the block with `POISON`.
- `values()` waits for the caller's current stream only, as `Tensor.tolist` does.
- What the host writes and reads in pinned memory, it writes and reads at once.
"""

from __future__ import annotations

import gc
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import torch

POISON = -(10**9)
CELL_BYTES = 8
HOST = -1
"""The observer's number for the host, as if it were a stream."""


class Schedule:
    """Which stream does its next work, and when, as a seed chooses."""

    ORDERS = ("needed", "others", "ranked", "random")

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.order = self.ORDERS[seed % 4]
        """Needed: only what the host waits for; others: all else first; ranked: some streams
        always before others."""
        self.chance = (0.0, 0.2, 0.8)[seed // 4 % 3]
        """How likely the device does some work by itself when the host calls it."""

    def next(self, runnable: list[FakeStream], needed: FakeStream | None) -> FakeStream:
        """The stream that does its next work.

        Args:
            runnable: to choose from.
            needed: the one of these that the host waits for.
        """
        if self.order == "needed" and needed is not None:
            return needed
        if self.order == "others":
            runnable = [stream for stream in runnable if stream is not needed] or runnable
        if self.order == "ranked":
            return min(runnable, key=lambda stream: stream.rank)
        return self.random.choice(runnable)


class Observer:
    """Is told everything that a device is asked for; this one ignores it."""

    def stream(self, stream: int) -> None:
        """A stream was made."""

    def launch(self, stream: int, reads: set[int], writes: set[int], name: str) -> None:
        """A kernel was launched that reads and writes these cells; `HOST`: the host did it."""

    def record(self, event: int, stream: int) -> None:
        """An event was recorded."""

    def wait(self, event: int, stream: int) -> None:
        """A stream was told to wait for an event."""

    def event_came(self, event: int) -> None:
        """The host knows that an event has come."""

    def stream_ended(self, stream: int) -> None:
        """The host has waited for a stream."""

    def device_ended(self) -> None:
        """The host has waited for all streams."""


class Memory:
    """The cells that kernels read and write; kernels do not keep a block alive."""

    __slots__ = ("cells", "foreign", "number", "stream")
    numbers = itertools.count()

    def __init__(self, size: int, stream: FakeStream | None = None) -> None:
        self.cells = [POISON] * size
        self.stream = stream
        self.foreign = False
        """Whether a stream other than its own has used it."""
        self.number = next(self.numbers)


class Span(NamedTuple):
    """Some cells of a memory."""

    memory: Memory
    start: int
    stop: int

    def read(self) -> list[int]:
        return self.memory.cells[self.start : self.stop]

    def write(self, values: list[int]) -> None:
        assert len(values) == self.stop - self.start
        self.memory.cells[self.start : self.stop] = values

    def numbers(self) -> set[int]:
        first = self.memory.number << 20
        return set(range(first + self.start, first + self.stop))


class Block:
    """Holds a memory as long as a tensor refers to it."""

    __slots__ = ("__weakref__", "memory", "pinned")

    def __init__(self, memory: Memory, freed: Callable[[Memory], Any], *, pinned: bool = False):
        self.memory = memory
        self.pinned = pinned
        weakref.finalize(self, freed, memory).atexit = False


class FakeTensor:
    """Rows of one number each; not a `torch.Tensor`."""

    __slots__ = ("_start", "_stop", "block", "dense", "device", "on_host")

    def __init__(
        self, device: FakeDevice, block: Block, start: int, stop: int, *, on_host: bool, dense: bool
    ) -> None:
        self.device = device
        self.block = block
        self._start = start
        self._stop = stop
        self.on_host = on_host
        self.dense = dense

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> FakeTensor:
        """A view."""
        start, stop, _ = rows.indices(len(self))
        return FakeTensor(
            self.device,
            self.block,
            self._start + start,
            self._start + stop,
            on_host=self.on_host,
            dense=self.dense,
        )

    @property
    def span(self) -> Span:
        return Span(self.block.memory, self._start, self._stop)

    def values(self) -> list[int]:
        """As `tolist`: on the device, waits for the current stream, no other."""
        return self.device.read(self)


class Mark:
    """A place in a stream."""

    __slots__ = ("at_ms", "reached", "stream")

    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.reached = False
        self.at_ms = 0.0


class FakeStream:
    """Work in the order in which it was asked for, each with the mark that it waits for."""

    def __init__(self, device: FakeDevice, number: int, rank: float) -> None:
        self.device = device
        self.number = number
        self.rank = rank
        self.work = deque[tuple[Mark | None, Callable[[], None]]]()
        self.free: dict[int, list[Memory]] = {}

    def wait_event(self, event: FakeEvent) -> None:
        with self.device.call() as observer:
            if self.device.failing_waits:
                self.device.failing_waits -= 1
                raise RuntimeError("a wait that fails")
            if event.mark is not None:
                self.work.append((event.mark, lambda: None))
                observer.wait(event.number, self.number)

    @property
    def waits_for(self) -> Mark | None:
        """The mark that must be reached before this stream can go on; None if it can."""
        mark = self.work[0][0] if self.work else None
        return None if mark is None or mark.reached else mark

    def mark(self) -> Mark:
        mark = Mark(self)

        def reach() -> None:
            mark.reached = True
            mark.at_ms = self.device.now_ms

        self.work.append((None, reach))
        return mark


class FakeEvent:
    """As `torch.cuda.Event`: one that was never recorded has come."""

    numbers = itertools.count(1)

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.number = next(self.numbers)
        self.mark: Mark | None = None

    def record(self, stream: FakeStream) -> None:
        with self.device.call() as observer:
            if self.device.failing_records:
                self.device.failing_records -= 1
                raise RuntimeError("an event that cannot be recorded")
            self.mark = stream.mark()
            observer.record(self.number, stream.number)

    def query(self) -> bool:
        with self.device.call() as observer:
            come = self.mark is None or self.mark.reached
            if come and self.mark is not None:
                observer.event_came(self.number)
            return come

    def synchronize(self) -> None:
        self.device.wait_for(self)

    def elapsed_time(self, later: FakeEvent) -> float:
        assert self.mark.reached
        assert later.mark.reached
        return later.mark.at_ms - self.mark.at_ms


class Using:
    """As `torch.cuda.stream`; not a generator, which would go back by itself when it is dropped."""

    def __init__(self, device: FakeDevice, stream: FakeStream) -> None:
        self._device = device
        self._stream = stream

    def __enter__(self) -> None:
        self._before = self._device.current
        self._device.current = self._stream

    def __exit__(self, *_: object) -> None:
        self._device.current = self._before


class FakeDevice:
    """An `Accelerator` of numbers, with kernels for stages to launch.

    Args:
        schedule: when work is done.
        pinned: whether the system grants page-locked memory.
        observer: is told what it is asked for.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        pinned: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._schedule = schedule
        self._pinned = pinned
        self._observer = observer or Observer()
        self._lock = threading.RLock()
        self.here = threading.local()
        """Attributes of the calling thread."""
        # Blocks are freed by whoever drops the last reference, the garbage collector too. What
        # that means for the device is seen to when it is called next, before anything else.
        self._freed = deque[Memory]()
        self.streams: list[FakeStream] = []
        self.default = self.stream()
        self.now_ms = 0.0
        self._live_rows = 0
        self.cached_rows = 0
        """Rows of freed blocks, each kept for the next tensor of its size in its stream."""
        self.peak_rows = 0
        self.capacity_rows: int | None = None
        """The rows that fit into its memory at a time; None for any number."""
        self.refused = 0
        """How often memory has run out."""
        self.pinned_bytes: list[int] = []
        """The size of each pinned buffer that was granted."""
        self.awaited_rows: int | None = None
        self.have_come = threading.Event()
        """Set once so many rows are in use at a time."""
        self.failing_waits = 0
        """How many of the next calls of `wait_event` fail."""
        self.failing_records = 0
        """How many of the next events cannot be recorded."""
        self.lost = False
        """Whether every call fails from now on."""
        self.aborts = 0
        """How often this process would have been aborted: a block that streams have used was freed
        on a lost device. Not counted is what nobody can prevent: a thread frees what it knows to be
        done when another has just lost the device, and no call has told it yet."""
        self._kept: list[Any] = []

    # What streams.py calls.

    def stream(self) -> FakeStream:
        with self._lock:
            stream = FakeStream(self, len(self.streams), self._schedule.random.random())
            self.streams.append(stream)
            self._observer.stream(stream.number)
            return stream

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def current_stream(self) -> FakeStream:
        return self.current

    def using(self, stream: FakeStream) -> Using:
        return Using(self, stream)

    def synchronize(self) -> None:
        self.finish()

    def empty_cache(self) -> None:
        with self.call():
            for stream in self.streams:
                stream.free.clear()
            self.cached_rows = 0

    def keep_all(self) -> None:
        self._kept += [each for each in gc.get_objects() if type(each) in {FakeTensor, Block}]

    def is_here(self, leaf: Any) -> bool:
        return isinstance(leaf, FakeTensor) and not leaf.on_host

    def is_on_host(self, leaf: Any) -> bool:
        return isinstance(leaf, FakeTensor) and leaf.on_host

    def size_bytes(self, leaf: FakeTensor) -> int | None:
        return len(leaf) * CELL_BYTES if leaf.dense else None

    def pinned_buffer(self, size_bytes: int) -> Block:
        if not self._pinned:
            raise RuntimeError("the system refuses")
        with self._lock:
            self.pinned_bytes.append(size_bytes)
        # PyTorch itself keeps a freed one until the copies are done, so nothing happens then.
        memory = Memory(size_bytes // CELL_BYTES)
        memory.foreign = True
        return Block(memory, self._free_pinned, pinned=True)

    def place(self, leaf: FakeTensor, buffer: Block, start: int) -> FakeTensor:
        first = start // CELL_BYTES
        return FakeTensor(self, buffer, first, first + len(leaf), on_host=True, dense=True)

    def fill(self, place: FakeTensor, leaf: FakeTensor) -> None:
        with self.call():
            place.span.write(leaf.span.read())
            self._tell(HOST, [leaf.span], [place.span], "fill")

    def upload(self, leaf: FakeTensor, *, wait: bool) -> FakeTensor:
        return self.to_device(leaf, wait=wait)

    def download(self, leaf: FakeTensor, place: FakeTensor) -> None:
        self.to_host(leaf, place)

    def fetch(self, leaf: FakeTensor) -> FakeTensor:
        with self.call():
            copy = self.host([POISON] * len(leaf))
            self._launch(lambda values: values, [leaf.span], copy.span, "fetch")
            self._wait_for_current()
            return copy

    def copy_of(self, place: FakeTensor) -> FakeTensor:
        return self.host(self.read(place))

    # What stages call.

    @property
    def current(self) -> FakeStream:
        """This thread's current stream."""
        stream: FakeStream = getattr(self.here, "stream", self.default)
        return stream

    @current.setter
    def current(self, stream: FakeStream) -> None:
        self.here.stream = stream

    def host(self, values: list[int], *, dense: bool = True) -> FakeTensor:
        """A tensor in the host's memory, which is overwritten once it is freed."""
        memory = Memory(len(values))
        memory.cells[:] = values
        block = Block(memory, _overwrite)
        return FakeTensor(self, block, 0, len(values), on_host=True, dense=dense)

    def kernel(
        self, function: Callable[..., list[int]], *tensors: FakeTensor, rows: int | None = None
    ) -> FakeTensor:
        """A new tensor that will hold what the function returns for the values of these."""
        with self.call():
            result = self._allocate(len(tensors[0]) if rows is None else rows)
            self._launch(function, [tensor.span for tensor in tensors], result.span, "kernel")
            return result

    def change(
        self, function: Callable[..., list[int]], tensor: FakeTensor, *others: FakeTensor
    ) -> FakeTensor:
        """The tensor itself, whose values the function will change."""
        with self.call():
            spans = [each.span for each in (tensor, *others)]
            self._launch(function, spans, tensor.span, "change")
            return tensor

    def read(self, tensor: FakeTensor) -> list[int]:
        """The values that the memory holds once the current stream is done."""
        with self.call():
            if not tensor.on_host:
                self._wait_for_current()
            self._tell(HOST, [tensor.span], [], "read")
            return tensor.span.read()

    def count_live_rows(self) -> int:
        """The rows of all blocks that somebody refers to."""
        with self._lock:
            self._reclaim()
            return self._live_rows

    def to_device(self, leaf: FakeTensor, *, wait: bool = True) -> FakeTensor:
        """A copy of a host tensor; waits for it unless told otherwise."""
        with self.call():
            copy = self._allocate(len(leaf))
            self._launch(lambda values: values, [leaf.span], copy.span, "upload")
            if wait:
                self._wait_for_current()
            return copy

    def to_host(self, leaf: FakeTensor, place: FakeTensor) -> None:
        """Copy a tensor to a host tensor, later."""
        with self.call():
            self._launch(lambda values: values, [leaf.span], place.span, "download")

    # What tests call.

    def finish(self) -> None:
        """Wait until all work is done."""
        with self.call() as observer:
            while any(stream.work for stream in self.streams):
                self._run_one(None)
            observer.device_ended()

    def wait_for(self, event: FakeEvent) -> None:
        """Wait until an event has come."""
        with self.call() as observer:
            if event.mark is not None:
                self.run_until(event.mark)
                observer.event_came(event.number)

    # How it works.

    @contextmanager
    def call(self):
        """A call of the host's; afterwards the device may go on a little by itself."""
        with self._lock:
            if self.lost:
                self.here.told = True
                raise RuntimeError("device-side assert triggered")
            self._reclaim()
            yield self._observer
            while self._schedule.random.random() < self._schedule.chance and self._runnable():
                self._run_one(None)

    def run_until(self, mark: Mark) -> None:
        """Wait for a mark."""
        while not mark.reached:
            needed = mark
            while (before := needed.stream.waits_for) is not None:
                needed = before
            self._run_one(needed.stream)

    def _runnable(self) -> list[FakeStream]:
        return [stream for stream in self.streams if stream.work and stream.waits_for is None]

    def _run_one(self, needed: FakeStream | None) -> None:
        stream = self._schedule.next(self._runnable(), needed)
        _, work = stream.work.popleft()
        self.now_ms += 1
        work()

    def _wait_for_current(self) -> None:
        self.run_until(self.current.mark())
        self._observer.stream_ended(self.current.number)

    def _launch(
        self, function: Callable[..., list[int]], reads: list[Span], result: Span, name: str
    ) -> None:
        self._tell(self.current.number, reads, [result], name)
        for span in (*reads, result):
            span.memory.foreign |= span.memory.stream is not self.current
        self.current.work.append(
            (None, lambda: result.write(function(*(span.read() for span in reads))))
        )

    def _tell(self, stream: int, reads: list[Span], writes: list[Span], name: str) -> None:
        if type(self._observer) is Observer:
            return
        written = set().union(*(span.numbers() for span in writes))
        read = set().union(*(span.numbers() for span in reads))
        self._observer.launch(stream, read - written, written, name)

    def _allocate(self, rows: int) -> FakeTensor:
        free = self.current.free.get(rows)
        in_use = self._live_rows + self.cached_rows
        if not free and self.capacity_rows is not None and in_use + rows > self.capacity_rows:
            self.refused += 1
            raise torch.OutOfMemoryError(f"{in_use} rows are in use, {rows} more wanted")
        self._live_rows += rows
        self.peak_rows = max(self.peak_rows, self._live_rows)
        if self._live_rows == self.awaited_rows:
            self.have_come.set()
        if free:
            self.cached_rows -= rows
        memory = free.pop() if free else Memory(rows, self.current)
        memory.foreign = False
        block = Block(memory, self._free)
        return FakeTensor(self, block, 0, rows, on_host=False, dense=True)

    def _free(self, memory: Memory) -> None:
        # Once all is kept, nobody may free anything.
        known = bool(self._kept) or hasattr(self.here, "told")
        self.aborts += self.lost and memory.foreign and known
        self._freed.append(memory)

    def _free_pinned(self, memory: Memory) -> None:
        self.aborts += self.lost

    def _reclaim(self) -> None:
        while self._freed:
            memory = self._freed.popleft()
            rows = len(memory.cells)
            self._live_rows -= rows
            self.cached_rows += rows
            memory.stream.free.setdefault(rows, []).append(memory)
            whole = Span(memory, 0, rows)
            self._tell(memory.stream.number, [], [whole], "reuse")
            memory.stream.work.append((None, lambda whole=whole: _overwrite(whole.memory)))


def _overwrite(memory: Memory) -> None:
    memory.cells[:] = [POISON] * len(memory.cells)
