"""What members and the model host say to each other, over Unix sockets.

    member                        host
    Hello, with its memory   ->
                             <-   Loading, then Ready or LoadFailed
    Question                 ->
                             <-   Answer, Failed, or Again: ask once more
                             <-   LogText, at any time, on the first connection of a member

A message is a pickle behind its length. Both ends belong to the same user, who could read the
memory of either anyway; `check_peer` refuses all others.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
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
    "UnreadableMessage",
    "check_peer",
    "receive",
    "receive_hello",
    "receive_one",
    "send",
    "send_hello",
]

LENGTH = struct.Struct("<Q")

FIRST_BYTES = 32 * 1024
"""What is read of a message at first; most are shorter."""

CREDENTIALS = struct.Struct("3i")
"""Process, user and group (`man 7 unix`, SO_PEERCRED)."""

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
    context: Sequence[Any]
    """For the function in the host, one entry for each request."""


class HostCall(NamedTuple):
    """The host call that a question was a part of. Times are on the system's monotonic clock."""

    rows: int
    parts: int
    """Questions that it was merged from."""
    first: bool
    """Whether this is the first of them; summed over these, each host call counts once."""
    came_s: float
    began_s: float
    ended_s: float
    work_s: float | None = None
    """Seconds of the device, where these are not the time from `began_s` to `ended_s`."""
    before: HostCall | None = None
    """The call of the hosted stage before, which these rows have passed, too."""

    @property
    def worked_s(self) -> float:
        """Seconds that the model took for all rows of the call."""
        return self.ended_s - self.began_s if self.work_s is None else self.work_s

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
    call: HostCall


class Failed(NamedTuple):
    """The host call failed, and the question was the only part of it."""

    error: bytes
    stage: Stage
    call: HostCall | None


class Again(NamedTuple):
    """The host call failed with others in it: ask again, as a part of this group."""

    group: int


class UnreadableMessage(Exception):  # noqa: N818  (it carries an error)
    """A message came whole and cannot be loaded; `error` is why.

    A question has keys of the user's, whose class this process may be unable to import.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def send(connection: socket.socket, message: Any) -> None:
    """Send one message.

    Raises:
        OSError: the other side has gone, or does not read.
    """
    data = pickle.dumps(message, protocol=5)
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next message.

    Raises:
        EOFError: the other side has gone.
        TimeoutError: none came within the connection's time-out.
        UnreadableMessage: it cannot be loaded.
    """
    # Most messages come in one piece. Each side sends the next one only after a reply, so that no
    # piece holds two, except where `receive_one` is used.
    try:
        data = connection.recv(FIRST_BYTES)
    except ConnectionError as error:
        raise EOFError(str(error)) from error
    if not data:
        raise EOFError("the connection was closed")
    if len(data) < LENGTH.size:
        data += _exactly(connection, LENGTH.size - len(data))
    (length,) = LENGTH.unpack_from(data)
    missing = length + LENGTH.size - len(data)
    if missing:
        data += _exactly(connection, missing)
    try:
        return pickle.loads(memoryview(data)[LENGTH.size :])  # noqa: S301  (same user, see above)
    except Exception as error:
        raise UnreadableMessage(error) from error


def receive_one(connection: socket.socket) -> Any:
    """The next message where several may have come at once: the greeting, and lines of the log.

    Raises:
        EOFError: the other side has gone.
    """
    (length,) = LENGTH.unpack(_exactly(connection, LENGTH.size))
    return pickle.loads(_exactly(connection, length))  # noqa: S301


def send_hello(connection: socket.socket, hello: Hello, fd: int) -> None:
    """Send the first message, and a descriptor of the member's memory with it."""
    data = pickle.dumps(hello, protocol=5)
    socket.send_fds(connection, [LENGTH.pack(len(data))], [fd])
    connection.sendall(data)


def receive_hello(connection: socket.socket) -> tuple[Hello, int]:
    """The first message and the descriptor, which the caller has to close.

    Raises:
        EOFError: the member has gone, or is none.
    """
    header, fds, _, _ = socket.recv_fds(connection, LENGTH.size, 1)
    if len(header) < LENGTH.size or not fds:
        raise EOFError("no member")
    (length,) = LENGTH.unpack(header)
    return pickle.loads(_exactly(connection, length)), fds[0]  # noqa: S301


def check_peer(connection: socket.socket) -> None:
    """Refuse a process of another user, where the system can tell.

    Raises:
        PermissionError: it is another user's.
    """
    if hasattr(socket, "SO_PEERCRED"):
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _, user, _ = CREDENTIALS.unpack(found)
        if user != os.geteuid():
            raise PermissionError(f"a process of user {user} asked for the model")


def _exactly(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        try:
            count = connection.recv_into(view)
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not count:
            raise EOFError("the connection was closed")
        view = view[count:]
    return data
