"""A buffer between TorchServe's socket and whoever reads its fields."""

from __future__ import annotations

import logging
import socket
import struct
import sys

__all__ = ["SocketBuffer"]

INT = struct.Struct("!i")
END = -1
"""The length that ends a list."""


class SocketBuffer:
    """The bytes of a connection that were received and not taken yet; has a socket's `recv`, too.

    At most `size_bytes` are received at once.
    """

    __slots__ = ("_bytes", "_start", "_stop", "connection")

    def __init__(self, connection: socket.socket, size_bytes: int) -> None:
        self.connection = connection
        self._bytes = bytearray(size_bytes)
        self._start = 0
        self._stop = 0
        """The bytes between these two are not taken yet."""

    def next_byte(self) -> bytearray:
        """The next byte, which stays in the buffer."""
        if self._start == self._stop:
            self._fill(1)
        return self._bytes[self._start : self._start + 1]

    def recv(self, most: int) -> bytearray:
        """Some bytes, at least one, as a socket's `recv` does."""
        if self._start == self._stop:
            self._fill(1)
        return self.take(min(most, self._stop - self._start))

    def take_field(self) -> bytearray | None:
        """Take a length and so many bytes; None for the length that ends a list.

        As with TorchServe, any other negative length means no bytes.
        """
        start = self._start
        body = start + INT.size
        if self._stop < body:
            self._fill(INT.size)
            start = self._start
            body = start + INT.size
        (length,) = INT.unpack_from(self._bytes, start)
        self._start = body
        if length == END:
            return None
        stop = body + length
        if length < 0 or stop > self._stop:
            return self.take(length)
        self._start = stop
        return self._bytes[body:stop]

    def take(self, length: int) -> bytearray:
        """Take so many bytes; none for a negative length, as with TorchServe."""
        if length <= 0:
            return bytearray()
        if self._stop - self._start < length:
            if length > len(self._bytes):
                return self._take_large(length)
            self._fill(length)
        start = self._start
        self._start = stop = start + length
        return self._bytes[start:stop]

    def _take_large(self, length: int) -> bytearray:
        """Take more bytes than the buffer holds: they are received into the result itself."""
        taken = bytearray(length)
        have = self._stop - self._start
        taken[:have] = self._bytes[self._start : self._stop]
        self._start = self._stop = 0
        # Views are released at once: a bytearray cannot grow while there is one.
        with memoryview(taken) as view:
            while have < length:
                have += self._receive(view[have:])
        return taken

    def _fill(self, least: int) -> None:
        """Receive until the buffer has so many bytes, at most its size."""
        have = self._stop - self._start
        if self._start + least > len(self._bytes) or not have:
            self._bytes[:have] = self._bytes[self._start : self._stop]
            self._start, self._stop = 0, have
        with memoryview(self._bytes) as view:
            while self._stop - self._start < least:
                self._stop += self._receive(view[self._stop :])

    def _receive(self, room: memoryview) -> int:
        with room:
            received = self.connection.recv_into(room)
        if not received:
            logging.info("Frontend disconnected.")  # noqa: LOG015  (as TorchServe does)
            sys.exit(0)
        return received
