"""What members and the model host say to each other, over Unix sockets.

    member                        host
    Hello, with its memory   ->
                             <-   Ready or LoadFailed, once the model is loaded
    Question                 ->
                             <-   Answer, Failed, or Again: ask once more
                             <-   LogText, at any time, on the first connection of a member

A message is a pickle behind its length. Both ends belong to the same user, who could read the
memory of either anyway; `check_peer` refuses all others.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from micro_batch_handler.config import Stage

__all__ = [
    "Again",
    "Answer",
    "Failed",
    "Hello",
    "HostCall",
    "LoadFailed",
    "LogText",
    "Place",
    "Question",
    "Ready",
]

Place = tuple[int, int]
"""Where bytes begin in a member's memory, and how many there are."""


class Hello(NamedTuple):
    """The first message of each connection of a member."""

    member: str
    """The same for all connections of one member, and for no other member."""
    size_bytes: int
    """Of the member's shared memory, whose descriptor comes with the message."""
    listens: bool
    """Whether this connection is for the host's log, and not for questions."""


class Ready(NamedTuple):
    """The model is loaded."""

    pid: int
    loaded_s: float
    """How long that took."""


class LoadFailed(NamedTuple):
    """The model could not be loaded; the host ends."""

    error: bytes
    """See remote_errors.py."""


class LogText(NamedTuple):
    """What the host or the handler in it has written, whole lines."""

    text: str


class Question(NamedTuple):
    """A call of the hosted stages on the rows of one micro-batch."""

    rows: int
    kind: Hashable
    """Rows of different kinds share no host call."""
    group: int
    """0 if it may share a call with any; else only with those of the same group."""
    merges: bool
    """Whether it may share a call at all."""
    handles: bool
    """Whether it is for the handler's own `handle`, and not for the hosted stages."""
    most_rows: int
    """Of the host call that it becomes a part of."""
    data: bytes
    """The pickle of the payload; empty if it is in the member's memory, at the first place."""
    places: Sequence[Place]
    """Of the payload's buffers in the member's memory."""
    ticket: int
    """Of the call, in the member's memory; see arena.py."""
    room: Place
    """Where the host may put a result."""
    until_s: float | None
    """When nobody waits for it any more, on the system's monotonic clock; None for never."""
    context: Sequence[Any]
    """For the function in the host, one entry for each request."""
    alone: bool = False
    """Whether the host does nothing else meanwhile: it may end a host, and must be known for it."""


class HostCall(NamedTuple):
    """The host call that a question was a part of. Times are on the system's monotonic clock.

    On a device they are the device's: its work begins and ends later than Python asks for it.
    """

    rows: int
    parts: int
    """Questions that it was merged from."""
    first: bool
    """Whether this is the first of them; summed over these, each host call counts once."""
    came_s: float
    began_s: float
    ended_s: float
    before: HostCall | None = None
    """The call of the hosted stage before, which these rows have passed, too."""

    @property
    def worked_s(self) -> float:
        """Seconds that the model took for all rows of the call."""
        return self.ended_s - self.began_s

    @property
    def waited_s(self) -> float:
        """Seconds that the question waited for this call, from when the host had its rows."""
        since_s = self.came_s if self.before is None else self.before.ended_s
        return max(0.0, self.began_s - since_s)


class Answer(NamedTuple):
    """What the hosted stages returned for the rows of a question."""

    data: bytes
    places: Sequence[Place]
    effects: Sequence[Sequence[Any]] | None
    """What else the stages' functions did, one entry a row from each that did something, in the
    order of the stages; None for nothing."""
    call: HostCall | None


class Failed(NamedTuple):
    """The host call failed, and the question was the only part of it."""

    error: bytes
    stage: Stage
    call: HostCall | None


class Again(NamedTuple):
    """The host call failed with others in it: ask again, as a part of this group."""

    group: int
