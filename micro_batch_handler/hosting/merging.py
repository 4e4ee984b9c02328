"""Which questions share a host call: all that wait and may, the oldest first.

    waiting      A 8 rows    B 8 rows    C 4 rows, another kind    D 8 rows
    taken        A, B, D     if the call may have 24 rows; C is taken next

No timer waits for more: while one call computes, the questions for the next one come in.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from micro_batch_handler.hosting.messages import Again, Failed, HostCall, Question
from micro_batch_handler.pipeline.micro_batch import Part
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Asked", "Item", "Made", "Returned", "WaitingItems", "share_effects"]


class Returned(NamedTuple):
    """What a host call has returned for the rows of one question."""

    part: Part
    effects: Any


class Made:
    """A host call that Python has made. On a device it has the times of its work there.

    Args:
        rows: of the call.
        parts: questions that it was merged from.
        times_s: when Python began and ended it.
        device_s: waits for the device, and gives its seconds; None if they are Python's own.
        clock: the time.
    """

    def __init__(
        self,
        rows: int,
        parts: int,
        times_s: tuple[float, float],
        device_s: Callable[[], float | None],
        clock: Clock,
    ) -> None:
        self._rows = rows
        self._parts = parts
        self._times_s = times_s
        self._device_s: Callable[[], float | None] | None = device_s
        self._clock = clock
        self._lock = threading.Lock()

    def told(self, came_s: float, before: HostCall | None, *, first: bool) -> HostCall:
        """The call as one of its questions is told of it, once the device has ended it.

        All are told the same times, by which members know that it is the same call.
        """
        with self._lock:
            if self._device_s is not None:
                seconds, self._device_s = self._device_s(), None
                if seconds is not None:
                    ended_s = self._clock.now_s()
                    self._times_s = max(self._times_s[0], ended_s - seconds), ended_s
        return HostCall(self._rows, self._parts, first, came_s, *self._times_s, before)


class Asked:
    """A question that the host has, until it is settled.

    Args:
        question: of a member.
        came_s: when it came.
        runs: tells the member, in its memory, whether the model has the question now.
    """

    __slots__ = (
        "_settled",
        "_settling",
        "came_s",
        "effects",
        "outcome",
        "passed",
        "question",
        "runs",
        "sent",
    )

    def __init__(self, question: Question, came_s: float, runs: Callable[[bool], None]) -> None:
        self.question = question
        self.came_s = came_s
        self.runs = runs
        """Called with True when the model gets it: if the host ends then, it may be why."""
        self.effects: list[Sequence[Any]] = []
        """What else the stages' functions did, one entry a row from each that did something."""
        self.passed: list[tuple[Made, bool]] = []
        """The host calls that it was a part of, and whether it was the first part."""
        self.outcome: Returned | Failed | Again | None = None
        self.sent = False
        """Whether the member has been told."""
        # A lock costs a fraction of an event, and one thread waits, once.
        self._settling = threading.Lock()
        self._settled = threading.Lock()
        self._settled.acquire()

    def host_call(self) -> HostCall | None:
        """The last host call that it was a part of, which knows those of the stages before."""
        call = None
        for made, first in self.passed:
            call = made.told(self.came_s, call, first=first)
        return call

    def settle(self, outcome: Returned | Failed | Again) -> None:
        """It has ended; the first time counts. What is still on the device runs on."""
        if not self._settling.acquire(blocking=False):
            return
        if not isinstance(outcome, Returned) or outcome.part.done is None:
            self.runs(False)
        self.outcome = outcome
        self._settled.release()

    def wait(self) -> Returned | Failed | Again:
        """The outcome, once it is settled; for one thread, once."""
        self._settled.acquire()
        assert self.outcome is not None  # noqa: S101
        return self.outcome


class Item:
    """Rows that are ready for a stage: those of one question, or of several that were merged.

    Args:
        asked: the questions.
        part: their rows.
        kind: of the rows; those of different kinds share no call.
    """

    __slots__ = ("asked", "kind", "part", "rows")

    def __init__(self, asked: Sequence[Asked], part: Part, kind: Hashable = None) -> None:
        self.asked = asked
        self.part = part
        self.kind = kind
        self.rows = part.rows

    def may_join(self, other: Item) -> bool:
        """Whether its rows may share a call with those of the other."""
        mine, theirs = self.asked[0].question, other.asked[0].question
        if not (mine.merges and theirs.merges) or mine.group != theirs.group:
            return False
        try:
            return bool(self.kind == other.kind)
        except Exception:  # keys of the user's may refuse to be compared
            return False


class WaitingItems:
    """What waits for one stage of the host; every method may be called from any thread."""

    def __init__(self) -> None:
        self._closed = False
        self._items: list[Item] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Item) -> None:
        """An item is ready."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def close(self) -> None:
        """Nothing is taken any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, most_rows: Callable[[], int]) -> list[Item]:
        """The items of the next call; waits until there is one. None once this is closed.

        Args:
            most_rows: tells how many rows fit the memory, at that moment. The oldest item is taken
                however large it is.
        """
        with self._changed:
            while not (self._items or self._closed):
                self._changed.wait()
            if self._closed:
                return []
            first = self._items[0]
            taken, rows = [first], first.rows
            for item in self._items[1:]:
                limit = min(
                    most_rows(), *(each.asked[0].question.most_rows for each in (*taken, item))
                )
                if rows + item.rows <= limit and item.may_join(first):
                    taken.append(item)
                    rows += item.rows
            self._items = [item for item in self._items if item not in taken]
            return taken


def share_effects(asked: Sequence[Asked], effects: Sequence[Any]) -> None:
    """Note for each question what a call has done beside its result, one entry a row."""
    start = 0
    for each in asked:
        stop = start + each.question.rows
        # A call of the handler's own `handle` has requests in it that are no rows.
        own_effects = effects if len(asked) == 1 else effects[start:stop]
        if any(own_effects):
            each.effects.append(own_effects)
        start = stop
