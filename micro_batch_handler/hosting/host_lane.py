"""The thread of one hosted stage: it merges what waits, calls the model, and shares out the result.

A call that fails is not repeated here. The members are told to ask again, in two groups that share
no call, so that each sends its rows unchanged: the failed call may have written to them. The halves
end at the rows of one member, which gets the error and goes on with single rows.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

from micro_batch_handler.config import Stage
from micro_batch_handler.errors import HostMissing
from micro_batch_handler.hosting.hosted_function import HostedFunction, HostFunction
from micro_batch_handler.hosting.kinds import kind_of
from micro_batch_handler.hosting.merging import (
    Asked,
    Item,
    Made,
    Returned,
    WaitingItems,
    share_effects,
)
from micro_batch_handler.hosting.messages import Again, Failed, HostCall
from micro_batch_handler.hosting.remote_errors import packed
from micro_batch_handler.pipeline.device.device_errors import device_is_lost, is_out_of_memory
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.memory import Ceiling, free_memory
from micro_batch_handler.pipeline.micro_batch import Part
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["HostLane", "Running"]

logger = logging.getLogger(__name__)

MOST_UNFINISHED = 2
"""Calls that the device may have at a time: one computes, and the next is there when it ends."""

_groups = count(1)


class Running(NamedTuple):
    """A call that runs."""

    began_s: float
    asked: Sequence[Asked]


class HostLane:
    """Calls one hosted stage, always in one thread.

    Args:
        stage: that is called.
        function: that is called.
        ops: how payloads are counted, cut and joined.
        streams: of the device that the function uses.
        clock: the time.
        allowed_sizes: the row counts that the function may be called with; none for any.
        then: gets the result for the next stage; None if this is the last one.
        handle: the handler's own, for requests that want something else than a prediction.
        lost: called when the device is lost.
        setup: called once in the thread.
    """

    def __init__(
        self,
        stage: Stage,
        function: HostFunction,
        ops: PayloadOps,
        streams: Streams | NoStreams,
        clock: Clock,
        *,
        allowed_sizes: Sequence[int] = (),
        then: HostLane | None = None,
        handle: HostFunction | None = None,
        lost: Callable[[], None] = lambda: None,
        setup: Callable[[], None] = lambda: None,
    ) -> None:
        self.stage = stage
        self.waiting = WaitingItems()
        self.calls = self.rows = 0
        self._function = HostedFunction(stage, function, ops, streams, allowed_sizes)
        self._handle = HostedFunction("handle", handle, ops, streams) if handle else None
        self._ops = ops
        self._streams = streams
        self._clock = clock
        self._then = then
        self._lost = lost
        self._setup = setup
        self._ceiling = Ceiling()
        self._running: Running | None = None
        self._unfinished: deque[tuple[Any, Running]] = deque()
        """Calls that Python has made and the device has not ended, each with its event."""

    @property
    def running(self) -> Running | None:
        """The oldest call that has not ended, on the device either."""
        for done, running in tuple(self._unfinished):
            if not _has_come(done):
                return running
        return self._running

    def set_up(self) -> None:
        """Prepare the calling thread, which has to be the one that runs the lane.

        Raises:
            BaseException: whatever `setup` raises.
        """
        self._setup()

    def run(self) -> None:
        """Call the stage on what waits, in this thread, until `waiting` is closed."""
        try:
            while self._take_and_call():
                self._let_device_catch_up()
        except BaseException as error:  # nobody else would answer what waits
            logger.exception("the thread of %s ends", self.stage)
            if device_is_lost(error):
                self._streams.keep_all()
            self._lost()

    def _let_device_catch_up(self) -> None:
        """Wait until the device has little left to do; what comes meanwhile joins the next call."""
        while len(self._unfinished) >= MOST_UNFINISHED:
            self._unfinished[0][0].synchronize()
            self._unfinished.popleft()

    def _take_and_call(self) -> bool:
        # A function of its own, so that nothing holds the items while the lane waits for others.
        taken = self.waiting.take(self._most_rows)
        items = [item for item in taken if not self._is_late(item)]
        if not items:
            return bool(taken)
        asked = [each for item in items for each in item.asked]
        rows = sum(item.rows for item in items)
        for each in asked:
            each.runs(True)
        began_s = self._clock.now_s()
        self._running = Running(began_s, asked)
        try:
            part = self._call(items, asked, rows)
        except BaseException as error:
            self._failed(asked, rows, error, began_s)
            return True
        finally:
            self._running = None
            self.calls, self.rows = self.calls + 1, self.rows + rows
        self._ceiling.worked(rows)
        if self._then is not None:
            self._hand_on(self._then, asked, part)
        else:
            self._share_out(asked, part)
        return True

    def _most_rows(self) -> int:
        """How many rows of several members may share a call now."""
        return self._ceiling.limit if self._function.cuts else 0

    def _call(self, items: Sequence[Item], asked: Sequence[Asked], rows: int) -> Part:
        handles = asked[0].question.handles and self._handle is not None
        function = self._handle if handles and self._handle else self._function
        running = self._running
        requests = [request for each in asked for request in each.question.context]
        began_s = self._clock.now_s()
        parts = [item.part for item in items]
        part, effects, device_s = function.call(parts, rows, requests, merged=len(asked) > 1)
        if part.done is not None and running is not None:
            self._unfinished.append((part.done, running))
        made = Made(rows, len(asked), (began_s, self._clock.now_s()), device_s, self._clock)
        for at, each in enumerate(asked):
            each.passed.append((made, not at))
        if effects is not None:
            share_effects(asked, effects)
        return part

    def _is_late(self, item: Item) -> bool:
        """Settle an item that nobody waits for any more."""
        now_s = self._clock.now_s()
        late = all(
            each.question.until_s is not None and now_s > each.question.until_s
            for each in item.asked
        )
        if late:
            for each in item.asked:
                error = HostMissing(self.stage, "it had too much to do")
                each.settle(Failed(packed(error), self.stage, None))
        return late

    def _hand_on(self, then: HostLane, asked: Sequence[Asked], part: Part) -> None:
        """Give a result to the next lane. While it waits there, it cannot be why the host ends."""
        if part.done is None:
            for each in asked:
                each.runs(False)
        then.waiting.add(Item(asked, part, kind_of(part.payload, self._ops)))

    def _share_out(self, asked: Sequence[Asked], part: Part) -> None:
        start = 0
        for each in asked:
            stop = start + each.question.rows
            each.settle(Returned(part.only(start, stop), each.effects or None))
            start = stop

    def _failed(
        self, asked: Sequence[Asked], rows: int, error: BaseException, began_s: float
    ) -> None:
        if device_is_lost(error):
            logger.error("the device is lost", exc_info=error)
            self._streams.keep_all()
            self._lost()
            return
        if is_out_of_memory(error):
            free_memory(error, self._streams.release, thorough=rows == 1)
            self._note_lack(asked, rows)
        if len(asked) == 1:
            (only,) = asked
            before, ended_s = only.host_call(), self._clock.now_s()
            call = HostCall(rows, 1, True, only.came_s, began_s, ended_s, before)
            only.settle(Failed(packed(error), self.stage, call))
            return
        traceback.clear_frames(error.__traceback__)
        logger.info("a call on %d rows of %d members fails: %r", rows, len(asked), error)
        half = len(asked) // 2
        for part in (asked[:half], asked[half:]):
            group = next(_groups)
            for each in part:
                each.settle(Again(group))

    def _note_lack(self, asked: Sequence[Asked], rows: int) -> None:
        """Remember how many rows were too many for the memory."""
        if rows == 1:
            self._ceiling.failed_alone()  # the row was behind the failures on the way down to it
            return
        question = asked[0].question
        # Rows that have failed come back in a group, or without merging.
        self._ceiling.failed(rows, first=question.merges and not question.group)


def _has_come(event: Any) -> bool:
    try:
        return bool(event.query())
    except RuntimeError:
        return False  # the device is lost, which the lane finds out
