"""Streams: which one a call's work goes to, and who waits for whom.

    preprocess    the stream of copies in      one for all lanes
    inference     a stream of its own          one for each call at a time, used again
    postprocess   the stream of copies out     one for all lanes

A stream belongs to the stage, not to the thread, since after a fault a lane repeats the stages
before its own. A call that has nothing beside it goes to the stream that its thread is in, mostly
the default one, and is copied without page-locked memory as `.to()` does: staging copies pays only
if something else can be done meanwhile.

    producer's stream                      consumer's stream
      its work
      done.record  ----------------------->  waits for done; no thread waits
                                             its work
                                             keeps its inputs until its own event has come

A device does its work later than Python asks for it. Four rules make that safe, whichever thread
makes a call and whether or not the call succeeds:

1. The stream of a call waits for the events of all inputs of the call.
2. What a call takes in from the stage before is kept until the call's own event has come. A
   caching allocator gives a freed block to the next tensor of the stream that it was made in, even
   if other streams still use it (https://pytorch.org/docs/stable/notes/cuda.html#cuda-streams, and
   `Tensor.record_stream`).
3. A thread waits only before Python reads values: after copies out, and at the end of postprocess.
4. Once, before the first call, the device is waited for: the weights were copied in its default
   stream, for which other streams do not wait.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from micro_batch_handler.config import Stage
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.pinned import PinnedBuffers
from micro_batch_handler.pipeline.device.stream import Stream
from micro_batch_handler.pipeline.device.transfers import download, upload
from micro_batch_handler.pipeline.device.work import Input, Observe, Work
from micro_batch_handler.pipeline.payloads.operations import Payload

__all__ = ["Streams"]

logger = logging.getLogger(__name__)


class Streams:
    """The streams of one pipeline.

    Args:
        device: that the handler uses.
        copy_in: whether CPU tensors that preprocess returns are copied to the device.
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
        self._all: list[Stream] = []
        self._in = self._add(device.stream())
        self._out = self._add(device.stream())
        self._inference = deque[Stream]()
        device.synchronize()  # rule 4

    def work(
        self, stage: Stage, inputs: Sequence[Input], rows: int, *, overlaps: bool = True
    ) -> Work:
        """A call of the stage; the thread that makes it has a permit of the stage.

        Args:
            stage: that is called.
            inputs: what the call takes in.
            rows: of the call.
            overlaps: whether other calls may run beside it.
        """
        return _DeviceWork(self, stage, inputs, rows, overlaps=overlaps)

    def take(self, stage: Stage, *, overlaps: bool) -> Stream:
        """The stream for a call of the stage; nobody else gets that of inference meanwhile."""
        if not overlaps:
            queue = self.device.current_stream()
            known = (stream for stream in self._all if stream.queue == queue)
            return next(known, None) or self._add(queue)
        if stage == "preprocess":
            return self._in
        if stage == "postprocess":
            return self._out
        try:
            return self._inference.pop()
        except IndexError:
            # More calls at a time than before, or a lane hangs and holds its stream.
            return self._add(self.device.stream())

    def give_back(self, stage: Stage, stream: Stream, *, overlaps: bool) -> None:
        """The call has ended; its work on the device may not have."""
        if overlaps and stage == "inference":
            self._inference.append(stream)

    def _add(self, queue: Any) -> Stream:
        stream = Stream(self.device, queue)
        self._all.append(stream)
        return stream

    def finish(self) -> None:
        """Wait for the device."""
        self.device.synchronize()

    def drop_what_is_done(self) -> None:
        """Let go of what ended work needed, on idle streams too."""
        for stream in self._all:
            stream.drop_what_is_done()

    def release(self) -> None:
        """Wait for the device, then let go of all that its work needed; after a fault only."""
        self.device.synchronize()
        self.drop_what_is_done()
        self.device.empty_cache()

    def keep_all(self) -> None:
        """Keep everything on a lost device, since freeing it would abort the process."""
        self.device.keep_all()


class _DeviceWork(Work):
    """One call of one stage, in a stream."""

    __slots__ = ("_began", "_buffers", "_inputs", "_overlaps", "_stream", "_streams", "_using")

    def __init__(
        self, streams: Streams, stage: Stage, inputs: Sequence[Input], rows: int, *, overlaps: bool
    ) -> None:
        super().__init__(stage, rows, streams.observe)
        self._streams = streams
        self._inputs = inputs
        self._overlaps = overlaps
        self._buffers: list[Any] = []

    def __enter__(self) -> Work:
        super().__enter__()
        self._stream = self._streams.take(self._stage, overlaps=self._overlaps)
        try:
            for each in self._inputs:
                if each.done is not None:
                    self._stream.queue.wait_event(each.done)  # rule 1
            self._began = self._stream.record()
            # Last, since the thread must be in its former stream if anything here fails.
            self._using = self._streams.device.using(self._stream.queue)
            self._using.__enter__()
        except BaseException:
            self._streams.give_back(self._stage, self._stream, overlaps=self._overlaps)
            raise
        return self

    def take_in(self, payload: Payload) -> Payload:
        """For postprocess, if `copy_out`, CPU tensors that stay valid after the call."""
        if self._stage != "postprocess" or not self._streams.copy_out:
            return payload
        transfer = download(self._streams.device, self._buffer, payload)
        if transfer.buffer is None:
            return transfer.payload
        self._stream.record().synchronize()  # rule 3
        return transfer.own(self._streams.device)

    def hand_over(self, result: Payload) -> Payload:
        """The result, on the device if `copy_in`; of postprocess, with values to be read."""
        if self._stage == "preprocess" and self._streams.copy_in:
            result = upload(self._streams.device, self._buffer, result).payload
        self.done = self._stream.record()
        if self._stage == "postprocess":
            self.done.synchronize()  # rule 3
        return result

    def device_timer(self) -> Callable[[], float | None]:
        """Gives the device's seconds, once it has come to the end of this call's work."""
        began, done = self._began, self.done

        def seconds() -> float:
            done.synchronize()
            return float(began.elapsed_time(done)) / 1000

        return seconds

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:  # noqa: PYI036
        try:
            # Rule 2, for a failed call too, since the work that it has asked for goes on.
            done = self._stream.record() if self.done is None else self.done
            host_s = time.perf_counter() - self._started_s if kind is None else None
            self._stream.keep(self._inputs, done, lambda: self._has_ended(done, host_s))
        except RuntimeError:
            # Most likely the device is lost. What it may still use is never freed, including the
            # page-locked buffers of this call.
            logger.exception("no event could be recorded after %s", self._stage)
            self._stream.keep(self, None)
        finally:
            self._using.__exit__(kind, *error)
            self._streams.give_back(self._stage, self._stream, overlaps=self._overlaps)
        self._streams.drop_what_is_done()

    def _buffer(self, size_bytes: int) -> Any | None:
        """A page-locked buffer for as long as this call needs it; None to copy without one."""
        buffer = self._streams.pinned.take(size_bytes) if self._overlaps else None
        if buffer is not None:
            self._buffers.append(buffer)
        return buffer

    def _has_ended(self, done: Any, host_s: float | None) -> None:
        """The device has come to the end of this call's work."""
        for buffer in self._buffers:
            self._streams.pinned.give_back(buffer)
        if host_s is not None and self._observe is not None:
            device_s = self._began.elapsed_time(done) / 1000
            self._observe(self._stage, self._rows, max(host_s, device_s))
