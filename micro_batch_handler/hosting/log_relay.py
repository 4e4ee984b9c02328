"""What the host writes, on its way to a member that logs it.

A thread of its own sends, so that neither the handler's `print` nor the watch waits for a member
that does not read.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress

from micro_batch_handler.hosting.messages import LogText
from micro_batch_handler.hosting.transport import send

__all__ = ["LogRelay"]

MOST_UNSAID_CHARACTERS = 2**20
"""What waits for a member; the oldest is dropped."""

PATIENCE = struct.pack("ll", 2, 0)
"""Seconds and microseconds that a member may leave lines unread; another one gets the next."""


class LogRelay:
    """Sends text to one of the members that listen; every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._unsaid: deque[str] = deque()
        self._size = 0
        self._listeners: list[socket.socket] = []
        self._closed = False
        threading.Thread(target=self._send, name="mbh-log", daemon=True).start()

    def say(self, text: str) -> None:
        """Let a member log these lines; without a member they wait for the next. Never blocks."""
        with self._changed:
            self._unsaid.append(text)
            self._size += len(text)
            while self._size > MOST_UNSAID_CHARACTERS:
                self._size -= len(self._unsaid.popleft())
            self._changed.notify()

    def listen(self, connection: socket.socket) -> None:
        """A member logs what it gets on this connection; returns when the member has gone."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
        with self._changed:
            self._listeners.append(connection)
            self._changed.notify()
        try:
            connection.recv(1)
        finally:
            self._drop(connection)

    def close(self) -> None:
        """Send nothing any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _send(self) -> None:
        while True:
            with self._changed:
                while not ((self._unsaid and self._listeners) or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                listener, text = self._listeners[0], "".join(self._unsaid)
                self._unsaid.clear()
                self._size = 0
            try:
                send(listener, LogText(text))
            except OSError:
                # A part may have been sent, so that nothing can follow on this connection.
                self._drop(listener)

    def _drop(self, listener: socket.socket) -> None:
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)
                with suppress(OSError):  # the member must see that nothing comes here any more
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()
