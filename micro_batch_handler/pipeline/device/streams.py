"""Device hand-over: which stream a stage's work goes to, and who waits for whom.

    preprocess    the stream of copies in      one for all lanes
    inference     a stream of its own          one for each lane, kept
    postprocess   the stream of copies out     one for all lanes

What the caller's thread does has nothing beside it. That goes to the thread's own stream, mostly
the default one, and is copied without page-locked memory, as `.to()` does: staging copies pays only
where something else can be done meanwhile.

    producer's stream                      consumer's stream
      its work
      done.record  ----------------------->  waits for done; no thread waits
                                             its work
                                             keeps what it took in until its own event has come

A device does its work later than Python asks for it. Four rules make that safe, whichever thread
makes a call and whether or not the call succeeds:

1. The stream of a call waits for the events of all that the call takes in.
2. What a call takes in is kept until the call's own event has come. A caching allocator gives a
   freed block to the next tensor of the stream that it was made in, without regard to others
   (https://pytorch.org/docs/stable/notes/cuda.html#cuda-streams, and `Tensor.record_stream`).
3. A thread waits only before Python reads values: after copies out, and at the end of postprocess.
4. Once, before the first call, the device is waited for: the weights were copied in its default
   stream, for which others do not wait.

Streams go with the stage, not with the thread, since after a fault a lane repeats the stages before
its own. A permit of the stage has one stream for itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeAlias

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.device.accelerator import Accelerator, accelerator_in_use
from micro_batch_handler.pipeline.device.pinned import PinnedBuffers
from micro_batch_handler.pipeline.device.transfers import download, upload
from micro_batch_handler.pipeline.micro_batch import Part
from micro_batch_handler.pipeline.payloads.operations import Payload

__all__ = ["NoStreams", "Observe", "Streams", "Work"]

logger = logging.getLogger(__name__)

Observe: TypeAlias = Callable[[Stage, int, float], None]
"""(stage, rows, seconds) of one good call; where the device is slower than Python, its seconds."""


class Work:
    """One call of one stage, as a `with` statement; this one is for a device without streams."""

    __slots__ = ("_observe", "_rows", "_stage", "_started_s", "done")

    def __init__(self, stage: Stage, rows: int, observe: Observe | None) -> None:
        self.done: Any = None
        """The event after which the result may be used; None if it may be at once."""
        self._stage = stage
        self._rows = rows
        self._observe = observe

    def take_in(self, payload: Payload) -> Payload:
        """What the stage is called with."""
        return payload

    def hand_over(self, result: Payload) -> Payload:
        """What the next stage gets."""
        return result

    def __enter__(self) -> Work:  # noqa: PYI034  (typing.Self needs Python 3.11)
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._observe is not None:
            self._observe(self._stage, self._rows, time.perf_counter() - self._started_s)


class NoStreams:
    """In place of `Streams` on a CPU, or where the handler's work shares the default stream."""

    def __init__(self, observe: Observe | None = None, device: Accelerator | None = None) -> None:
        self._observe = observe
        self._device = device

    def work(
        self,
        stage: Stage,
        _parts: Sequence[Part],
        rows: int,
        *,
        overlaps: bool = True,  # noqa: ARG002
    ) -> Work:
        """A call of the stage on so many rows."""
        return Work(stage, rows, self._observe)

    def release(self) -> None:
        """Nothing is kept but what the device's allocator has cached."""
        if (device := self._device or accelerator_in_use()) is not None:
            device.synchronize()
            device.empty_cache()

    def keep_all(self) -> None:
        """Free nothing of a device that is lost."""
        if (device := self._device or accelerator_in_use()) is not None:
            device.keep_all()


class Streams:
    """The streams of one pipeline, and what must not be freed yet.

    Args:
        device: that the handler uses.
        copy_in: whether CPU tensors that preprocess returns are copied to the device, by the stream
            of copies in.
        copy_out: whether postprocess gets CPU tensors.
        pinned_bytes: the most page-locked memory for these copies.
        observe: is told how long each good call took.
    """

    def __init__(
        self,
        device: Accelerator,
        *,
        copy_in: bool = True,
        copy_out: bool = False,
        pinned_bytes: int = 0,
        observe: Observe | None = None,
    ) -> None:
        self.device = device
        self.copy_in = copy_in
        self.copy_out = copy_out
        self.observe = observe
        self.pinned = PinnedBuffers(device, pinned_bytes)
        self._all: list[_Stream] = []
        self._in = self._add(device.stream())
        self._out = self._add(device.stream())
        self._inference = deque[_Stream]()
        device.synchronize()  # rule 4

    def work(
        self,
        stage: Stage,
        parts: Sequence[Part],
        rows: int,
        *,
        overlaps: bool = True,
    ) -> Work:
        """A call of the stage on so many rows, which come from these parts; it has a permit.

        Args:
            stage: that is called.
            parts: what it takes in.
            rows: of the call.
            overlaps: whether other calls may run beside it.
        """
        return _DeviceWork(self, stage, parts, rows, overlaps=overlaps)

    def stream_for(self, stage: Stage, *, overlaps: bool) -> _Stream:
        """The stage's stream; for inference, one that nobody else has until it is given back."""
        if not overlaps:
            return self._own_stream()
        if stage == "preprocess":
            return self._in
        if stage == "postprocess":
            return self._out
        try:
            return self._inference.pop()
        except IndexError:
            # The first call of this permit, or the successor of a lane that hangs with its stream.
            return self._add(self.device.stream())

    def _own_stream(self) -> _Stream:
        """The stream that this thread is in."""
        queue = self.device.current_stream()
        for stream in self._all:
            if stream.queue == queue:
                return stream
        return self._add(queue)

    def _add(self, queue: Any) -> _Stream:
        stream = _Stream(queue)
        self._all.append(stream)
        return stream

    def give_back(self, stage: Stage, stream: _Stream, *, overlaps: bool) -> None:
        """The call has ended; its work on the device may not have."""
        if overlaps and stage == "inference":
            self._inference.append(stream)

    def drop_what_is_done(self) -> None:
        """Let go of what ended work needed, on streams that may have no call for long, too."""
        for stream in self._all:
            stream.drop_what_is_done()

    def release(self) -> None:
        """Wait for the device, then let go of all that its work needed; after a fault only."""
        self.device.synchronize()
        self.drop_what_is_done()
        self.device.empty_cache()

    def keep_all(self) -> None:
        """Free nothing of a device that is lost, whoever lets go of it."""
        self.device.keep_all()


class _Stream:
    """A stream, and what its work still needs."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self._kept = deque[tuple[Any, Callable[[], None] | None, Any]]()
        # Waited for: a thread that loses its turn in here would else leave all that is done to
        # nobody. Taken again by the same thread, since a destructor may run a call of its own.
        self._releasing = threading.RLock()
        self._releases = False

    def keep(self, done: Any, things: Any, then: Callable[[], None] | None = None) -> None:
        """Hold references to `things` until the event has come; then, some time, call `then`."""
        self._kept.append((done, then, things))

    def drop_what_is_done(self) -> None:
        """Drop what waited for events that have come; never waits for the device itself."""
        with self._releasing:
            if self._releases:
                return
            self._releases = True
            try:
                # In order, since the work of one stream ends in order.
                while self._kept and _has_come(self._kept[0][0]):
                    _, then, things = self._kept.popleft()
                    if then is not None:
                        then()
                    del things
            finally:
                self._releases = False


def _has_come(event: Any) -> bool:
    try:
        return bool(event.query())
    except RuntimeError:
        return False  # the device is lost, and this process ends


class _DeviceWork(Work):
    """One call of one stage on a device with streams."""

    __slots__ = ("_began", "_buffers", "_overlaps", "_parts", "_stream", "_streams", "_using")

    def __init__(
        self,
        streams: Streams,
        stage: Stage,
        parts: Sequence[Part],
        rows: int,
        *,
        overlaps: bool,
    ) -> None:
        super().__init__(stage, rows, streams.observe)
        self._streams = streams
        self._parts = parts
        self._overlaps = overlaps
        self._buffers: list[Any] = []

    def take_in(self, payload: Payload) -> Payload:
        """For postprocess, if wanted, CPU tensors; they are its own and stay valid."""
        if self._stage != "postprocess" or not self._streams.copy_out:
            return payload
        transfer = download(self._streams.device, self._buffer, payload)
        if transfer.buffer is None:
            return transfer.payload
        copied = self._record()
        copied.synchronize()  # rule 3
        return transfer.own()

    def hand_over(self, result: Payload) -> Payload:
        """What the next stage gets, and after which event."""
        if self._stage == "preprocess" and self._streams.copy_in:
            result = upload(self._streams.device, self._buffer, result).payload
        self.done = self._record()
        if self._stage == "postprocess":
            self.done.synchronize()  # rule 3: answers are read from here on
        return result

    def __enter__(self) -> Work:
        super().__enter__()
        self._stream = self._streams.stream_for(self._stage, overlaps=self._overlaps)
        try:
            for part in self._parts:
                if part.done is not None:
                    self._stream.queue.wait_event(part.done)  # rule 1
            self._began = self._record()
            # Last, since what fails in here must leave the thread in the stream that it was in.
            self._using = self._streams.device.using(self._stream.queue)
            self._using.__enter__()
        except BaseException:
            self._streams.give_back(self._stage, self._stream, overlaps=self._overlaps)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Rule 2, for a failed call too: what it had asked for runs on.
            done = self._record() if self.done is None else self.done
            host_s = time.perf_counter() - self._started_s if kind is None else None
            self._stream.keep(done, self._parts, lambda: self._has_ended(done, host_s))
        except RuntimeError:
            # The device is lost, most likely. Nothing that it may still use is ever freed: the
            # page-locked buffers of this call neither.
            logger.exception("no event could be recorded after %s", self._stage)
            self._stream.keep(_Never(), self)
        finally:
            self._using.__exit__(kind, error, traceback)
            self._streams.give_back(self._stage, self._stream, overlaps=self._overlaps)
        self._streams.drop_what_is_done()

    def _buffer(self, size_bytes: int) -> Any | None:
        """A pinned buffer, if it pays and there is one, for as long as this call needs it."""
        buffer = self._streams.pinned.take(size_bytes) if self._overlaps else None
        if buffer is not None:
            self._buffers.append(buffer)
        return buffer

    def _record(self) -> Any:
        event = self._streams.device.event()
        event.record(self._stream.queue)
        return event

    def _has_ended(self, done: Any, host_s: float | None) -> None:
        """The device has come to the end of this call's work."""
        for buffer in self._buffers:
            self._streams.pinned.give_back(buffer)
        if host_s is not None and self._observe is not None:
            device_s = self._began.elapsed_time(done) / 1000
            self._observe(self._stage, self._rows, max(host_s, device_s))


class _Never:
    """An event that does not come."""

    def query(self) -> bool:
        return False
