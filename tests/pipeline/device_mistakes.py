"""Mistakes in the hand-over between streams, to be planted one at a time.

Each replaces public methods: of the fake device (which then does not do what it was asked for), or
of the parts of the hand-over that hold streams, memory and buffers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest

from micro_batch_handler.pipeline.device import streams
from micro_batch_handler.pipeline.device.pinned import PinnedBuffers
from micro_batch_handler.pipeline.device.stream import Stream
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.transfers import Transfer
from tests.pipeline.fake_device import FakeDevice, FakeEvent, FakeStream, Using

__all__ = ["MISTAKES", "Mistake", "name_of"]

Change = Callable[[Any], Callable[..., Any]]
"""(the method as it is) -> what stands in its place"""


class Mistake(NamedTuple):
    """One thing that the hand-over leaves out or does wrongly."""

    name: str
    methods: list[tuple[Any, str, Change]]
    """Each with its owner, and how it is changed."""

    wrong_answers: bool = False
    """Whether clients get wrong answers; otherwise memory, buffers, streams or times are lost."""

    unordered: bool = False
    """Whether memory is accessed by two streams in no order, which PyTorch's sanitizer reports."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """In the body the mistake is made."""
        with pytest.MonkeyPatch.context() as patch:
            for owner, name, change in self.methods:
                patch.setattr(owner, name, change(getattr(owner, name)))
            yield


def name_of(mistake: Mistake) -> str:
    """For the test's id."""
    return mistake.name


def _skipped(_method: Any) -> Callable[..., None]:
    return lambda *_, **__: None


def _skipped_if(condition: Callable[..., bool]) -> Change:
    return lambda method: (
        lambda *args, **named: None if condition(*args, **named) else method(*args, **named)
    )


def _answering(value: Any) -> Change:
    return lambda _method: lambda *_, **__: value


def _with(**named: Any) -> Change:
    return lambda method: lambda *args, **before: method(*args, **{**before, **named})


def _fails(*_: Any, **__: Any) -> bool:
    """Whether the call that ends here has failed."""
    return sys.exc_info()[0] is not None


def _is_first(device: FakeDevice) -> bool:
    was_asked, device.was_asked = getattr(device, "was_asked", False), True
    return not was_asked


def _is_not_first(device: FakeDevice) -> bool:
    return not _is_first(device)


def _is_behind_a_wait(stream: FakeStream, _event: FakeEvent) -> bool:
    """Whether the stream has waited for something since an event was last recorded in it."""
    waited, stream.waited = getattr(stream, "waited", False), True
    return waited


def _forgetting_waits(record: Any) -> Callable[..., None]:
    def record_and_forget(event: FakeEvent, stream: FakeStream) -> None:
        stream.waited = False
        record(event, stream)

    return record_and_forget


def _noting(name: str) -> Change:
    """The device notes in this thread that it was asked for this."""

    def change(method: Any) -> Callable[..., Any]:
        def noted(device: FakeDevice, *args: Any, **named: Any) -> Any:
            setattr(device.here, name, True)
            return method(device, *args, **named)

        return noted

    return change


def _is_for_copies(event: FakeEvent) -> bool:
    """Whether the thread has asked for copies out that it has not waited for yet."""
    here = event.device.here
    copying, here.copying = getattr(here, "copying", False), False
    return copying


def _behind_an_event(upload: Any) -> Callable[..., Any]:
    """The first copy in of a call, behind an event that the call takes for its own."""

    def upload_behind(device: FakeDevice, *args: Any, **named: Any) -> Any:
        if getattr(device.here, "early", None) is None:
            early = device.event()
            early.record(device.current)
            device.here.early = early
        return upload(device, *args, **named)

    return upload_behind


def _taking_the_early_one(record: Any) -> Callable[..., None]:
    def record_or_take(event: FakeEvent, stream: FakeStream) -> None:
        early, event.device.here.early = getattr(event.device.here, "early", None), None
        if early is None:
            record(event, stream)
        else:
            event.mark, event.number = early.mark, early.number

    return record_or_take


def _remembering_the_last(record: Any) -> Callable[..., None]:
    def record_and_remember(event: FakeEvent, stream: FakeStream) -> None:
        record(event, stream)
        event.before = getattr(stream, "last", event)
        stream.last = event

    return record_and_remember


def _keeping_until_the_last_but_one(keep: Any) -> Callable[..., None]:
    def keep_shorter(stream: Stream, things: Any, until: Any, then: Any = None) -> None:
        keep(stream, things, getattr(until, "before", until), then)

    return keep_shorter


def _without_then(keep: Any) -> Callable[..., None]:
    return lambda stream, things, until, then=None: keep(stream, things, until)


def _without_buffer(download: Any) -> Callable[..., Transfer]:
    def downloaded(*args: Any) -> Transfer:
        return download(*args)._replace(buffer=None)

    return downloaded


def _staying_idle(take: Any) -> Callable[..., Any]:
    def take_and_leave(buffers: PinnedBuffers, size_bytes: int) -> Any:
        buffer = take(buffers, size_bytes)
        if buffer is not None:
            buffers.give_back(buffer)
        return buffer

    return take_and_leave


def _noting_failure(wait: Any) -> Callable[..., None]:
    def wait_and_note(stream: FakeStream, event: FakeEvent) -> None:
        stream.device.here.wait_failed = True
        wait(stream, event)
        stream.device.here.wait_failed = False

    return wait_and_note


def _is_behind_a_failed_wait(all_streams: Streams, *_: Any, **__: Any) -> bool:
    return getattr(all_streams.device.here, "wait_failed", False) and _fails()


def _without_dropping(_release: Any) -> Callable[[Streams], None]:
    def release(all_streams: Streams) -> None:
        all_streams.device.synchronize()
        all_streams.device.empty_cache()

    return release


def _noting_release(release: Any) -> Callable[[Streams], None]:
    def noted(all_streams: Streams) -> None:
        all_streams.device.here.releases = True
        release(all_streams)
        all_streams.device.here.releases = False

    return noted


def _is_no_release(all_streams: Streams) -> bool:
    return not getattr(all_streams.device.here, "releases", False)


MISTAKES = [
    # Without these, clients get wrong answers.
    Mistake("no stream waits", [(FakeStream, "wait_event", _skipped)], True, True),
    Mistake(
        "a stream waits for the first input only",
        [
            (FakeStream, "wait_event", _skipped_if(_is_behind_a_wait)),
            (FakeEvent, "record", _forgetting_waits),
        ],
        True,
        True,
    ),
    Mistake("no event is recorded", [(FakeEvent, "record", _skipped)], True, True),
    Mistake(
        "an event comes before the copies in",
        [(FakeDevice, "upload", _behind_an_event), (FakeEvent, "record", _taking_the_early_one)],
        True,
        True,
    ),
    Mistake(
        "the weights are not waited for",
        [(FakeDevice, "synchronize", _skipped_if(_is_first))],
        True,
        True,
    ),
    Mistake(
        "copies out are not waited for",
        [
            (FakeDevice, "download", _noting("copying")),
            (FakeEvent, "synchronize", _skipped_if(_is_for_copies)),
        ],
        True,
        True,
    ),
    Mistake(
        "answers are not waited for",
        [
            (FakeDevice, "download", _noting("copying")),
            (FakeEvent, "synchronize", _skipped_if(lambda event: not _is_for_copies(event))),
        ],
        True,
        True,
    ),
    Mistake("nothing is kept", [(Stream, "keep", _skipped)], True, True),
    Mistake("failed calls keep nothing", [(Stream, "keep", _skipped_if(_fails))], True, True),
    Mistake(
        "inputs are kept until the event before the call's own",
        [
            (FakeEvent, "record", _remembering_the_last),
            (Stream, "keep", _keeping_until_the_last_but_one),
        ],
        True,
        True,
    ),
    Mistake("events seem to have come", [(FakeEvent, "query", _answering(True))], True, True),
    Mistake("buffers are not filled", [(FakeDevice, "fill", _skipped)], True),
    Mistake("nothing is copied out", [(FakeDevice, "download", _skipped)], True),
    Mistake("copies in never wait", [(FakeDevice, "upload", _with(wait=False))], True),
    Mistake(
        "answers stay in the buffer",
        [(Transfer, "own", lambda _: lambda transfer, _device: transfer.payload)],
        True,
    ),
    # Without these, something is never given back, or not told.
    Mistake("copies out through a buffer seem done", [(streams, "download", _without_buffer)]),
    Mistake(
        "nothing is copied in",
        [(streams, "upload", lambda _: lambda _device, _take, payload: _untouched(payload))],
    ),
    Mistake(
        "calls drop nothing",
        [
            (Streams, "release", _noting_release),
            (Streams, "drop_what_is_done", _skipped_if(_is_no_release)),
        ],
    ),
    Mistake("streams drop nothing", [(Stream, "drop_what_is_done", _skipped)]),
    Mistake("release drops nothing", [(Streams, "release", _without_dropping)]),
    Mistake("release does not wait", [(FakeDevice, "synchronize", _skipped_if(_is_not_first))]),
    Mistake("release empties no cache", [(FakeDevice, "empty_cache", _skipped)]),
    Mistake("a lost device's memory is freed", [(FakeDevice, "keep_all", _skipped)]),
    Mistake(
        "inputs of calls without an event are freed",
        [(Stream, "keep", _skipped_if(lambda *args: args[2] is None))],
    ),
    Mistake("inference streams are not used again", [(Streams, "give_back", _skipped)]),
    Mistake(
        "a stream is lost if it cannot wait",
        [
            (FakeStream, "wait_event", _noting_failure),
            (Streams, "give_back", _skipped_if(_is_behind_a_failed_wait)),
        ],
    ),
    Mistake("no stream is entered", [(FakeDevice, "using", _answering(nullcontext()))]),
    Mistake("no stream is left", [(Using, "__exit__", _skipped)]),
    Mistake("the end of a call is not told", [(Stream, "keep", _without_then)]),
    Mistake("no call is timed", [(Streams, "__init__", _with(observe=None))]),
    Mistake("buffers are not given back", [(PinnedBuffers, "give_back", _skipped)]),
    Mistake("two calls get one buffer", [(PinnedBuffers, "take", _staying_idle)]),
]


def _untouched(payload: Any) -> Transfer:
    return Transfer(payload, None, {})
