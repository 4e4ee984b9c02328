"""How a member and the host begin a connection: who asks, and whether the model is loaded."""

from __future__ import annotations

import socket

from micro_batch_handler.hosting.messages import Hello, LoadFailed, Ready
from micro_batch_handler.hosting.transport import check_peer, receive_one, send_hello

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


def greeting_on(connection: socket.socket, wait_s: float | None) -> Ready | LoadFailed | None:
    """What the host says once it has tried to load the model; None if it has not in time.

    Args:
        connection: on which the member has said who it is.
        wait_s: for how long to wait; None for any time.
    """
    try:
        connection.settimeout(wait_s)
        greeting: Ready | LoadFailed = receive_one(connection)
        connection.settimeout(None)
    except (OSError, EOFError):
        return None
    return greeting
