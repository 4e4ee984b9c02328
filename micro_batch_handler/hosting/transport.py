"""Messages over Unix sockets: each is a pickle behind its length.

Both ends belong to the same user, who could read the memory of either anyway; `check_peer` refuses
all others.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from micro_batch_handler.hosting.messages import Hello

__all__ = [
    "LOOK_EVERY",
    "UnreadableMessage",
    "check_peer",
    "peer_of",
    "receive",
    "receive_hello",
    "receive_one",
    "send",
    "send_hello",
]

LENGTH = struct.Struct("<Q")

LOOK_EVERY = struct.pack("ll", 1, 0)
"""Seconds and microseconds from one look at the time to the next, while a reply is waited for."""

CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

FIRST_BYTES = 32 * 1024
"""What is read of a message at first; most are shorter."""

CREDENTIALS = struct.Struct("3i")
"""Process, user and group (`man 7 unix`, SO_PEERCRED)."""


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


def receive(connection: socket.socket, still_waiting: Callable[[], None] | None = None) -> Any:
    """The next message.

    Args:
        connection: on which each side sends only after the other one has.
        still_waiting: called now and then, where the socket has a time-out for receiving
            (SO_RCVTIMEO); it may raise.

    Raises:
        EOFError: the other side has gone.
        UnreadableMessage: it cannot be loaded.
    """
    buffer = bytearray(FIRST_BYTES)  # most messages come in one piece
    view = memoryview(buffer)
    count = _some(connection, view, still_waiting)
    while count < LENGTH.size:
        count += _some(connection, view[count:], still_waiting)
    length = LENGTH.unpack_from(buffer)[0] + LENGTH.size
    if length > len(buffer):
        longer = bytearray(length)
        longer[:count] = view[:count]
        view = memoryview(longer)
    while count < length:
        count += _some(connection, view[count:length], still_waiting)
    try:
        return pickle.loads(view[LENGTH.size : length])  # noqa: S301  (same user, see above)
    except Exception as error:
        raise UnreadableMessage(error) from error


def receive_one(connection: socket.socket) -> Any:
    """The next message where several may have come at once: the greeting, and lines of the log.

    Raises:
        EOFError: the other side has gone.
        TimeoutError: nothing came within the connection's time-out.
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
    header, fds, _, _ = socket.recv_fds(connection, LENGTH.size, 1, CLOSE_ON_EXEC)
    if len(header) < LENGTH.size or not fds:
        _close(fds)
        raise EOFError("no member")
    try:
        (length,) = LENGTH.unpack(header)
        return pickle.loads(_exactly(connection, length)), fds[0]  # noqa: S301
    except BaseException:
        _close(fds)
        raise


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def peer_of(connection: socket.socket) -> tuple[int, int] | None:
    """The process and the user at the other end; None where the system cannot tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(found)
    return pid, user


def check_peer(connection: socket.socket) -> None:
    """Refuse a process of another user, where the system can tell.

    Raises:
        PermissionError: it is another user's.
    """
    peer = peer_of(connection)
    if peer is not None and peer[1] != os.geteuid():
        raise PermissionError(f"a process of user {peer[1]} is at the other end")


def _some(
    connection: socket.socket, view: memoryview, still_waiting: Callable[[], None] | None
) -> int:
    """How many bytes have come; at least one."""
    while True:
        try:
            count = connection.recv_into(view)
        except BlockingIOError:
            if still_waiting is None:
                raise
            still_waiting()
            continue
        except ConnectionError as error:
            raise EOFError(str(error)) from error
        if not count:
            raise EOFError("the connection was closed")
        return count


def _exactly(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        view = view[_some(connection, view, None) :]
    return data
