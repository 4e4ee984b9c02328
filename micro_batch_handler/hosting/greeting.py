"""How a member and the host begin a connection: who asks, and whether the model is loaded."""

from __future__ import annotations

import socket
from collections.abc import Callable

from micro_batch_handler.hosting.messages import Hello, LoadFailed, Ready
from micro_batch_handler.hosting.transport import (
    LOOK_EVERY,
    check_peer,
    receive,
    receive_one,
    send_hello,
)

__all__ = ["LoadError", "greeting_on", "introduce"]


class LoadError(Exception):
    """The model host cannot load the model; `error` is why."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def introduce(connection: socket.socket, hello: Hello, fd: int) -> bool:
    """Say who asks, and hand over the descriptor of the member's memory; False if nobody listens.

    Raises:
        PermissionError: a process of another user is at the other end.
    """
    try:
        check_peer(connection)
        send_hello(connection, hello, fd)
    except (ConnectionError, EOFError):
        return False
    return True


def greeting_on(
    connection: socket.socket,
    wait_s: float | None,
    still_waiting: Callable[[], None] | None = None,
) -> Ready | LoadFailed | None:
    """What the host says once it has tried to load the model; None if it has not in time.

    Args:
        connection: on which the member has said who it is.
        wait_s: for how long to wait; None for any time.
        still_waiting: called every second, on a connection for questions. It raises OSError when
            it is time to give up; `wait_s` does not count then.
    """
    greeting: Ready | LoadFailed
    try:
        if still_waiting is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOOK_EVERY)
            greeting = receive(connection, still_waiting)
        else:
            connection.settimeout(wait_s)
            greeting = receive_one(connection)
            connection.settimeout(None)
    except (OSError, EOFError):
        return None
    return greeting
