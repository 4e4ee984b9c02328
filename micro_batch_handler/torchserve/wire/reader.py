"""Batches, read from TorchServe's socket through a buffer.

TorchServe's worker reads every field of every request by system calls of its own
(ts/protocol/otf_message_handler.py, `_retrieve_buffer`): several hundred for a batch of 32, which
costs more than a small model. Here a few large reads take in the whole batch; what comes out is the
same to the byte.

    handle_connection        ts/model_service_worker.py, the worker's one thread
      retrieve_msg           a name of that script, which `read_buffered` points here
        a batch              read here
        anything else        read by TorchServe's own functions, from the buffer

This reaches into a private part of TorchServe. So it is done in its worker only, for the one
release that it was made for, and for an original that nobody else has replaced; else batches are
read as ever, and the worker's log says so. `micro_batching: {buffered_reads: false}` turns it off.

The socket is asked only while the message at hand lacks something. What else is there comes along,
and stays for the next message.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
import time
from types import ModuleType
from typing import Any

import ts
from ts.protocol import otf_message_handler

from micro_batch_handler.torchserve.wire.decode import server_decodes

__all__ = ["MessageReader", "read_buffered"]

logger = logging.getLogger(__name__)

MADE_FOR = "0.12.0"
"""TorchServe's last release."""

BUFFER_BYTES = 256 * 1024
"""Some 32 requests of 8 KB: more saves no system calls that would be noticed."""

WORKER = "TorchModelServiceWorker"
"""The class by which the worker's script is known."""

OFF = "micro_batching.buffered_reads is off"

INT = struct.Struct("!i")
END = -1
BATCH = b"I"
"""The command before a batch; not by its name, which another release may lack."""


def read_buffered(script: ModuleType | None = None) -> bool:
    """Let TorchServe's worker read batches through a buffer from now on; whether it does.

    Args:
        script: what this process runs, the worker's or another; None to look.
    """
    script = script or sys.modules["__main__"]
    if not hasattr(script, WORKER):
        return False  # a test, a notebook or a tool calls the handler
    if ts.__version__ != MADE_FOR:
        logger.info("%s: made for TorchServe %s, found %s", OFF, MADE_FOR, ts.__version__)
        return False
    reader = getattr(script, "retrieve_msg", None)
    if isinstance(reader, MessageReader):
        return True
    if reader is not otf_message_handler.retrieve_msg:
        logger.info("%s: this worker has a retrieve_msg of its own, %r", OFF, reader)
        return False
    vars(script)["retrieve_msg"] = MessageReader()
    return True


class MessageReader:
    """`retrieve_msg` of otf_message_handler.py, with a buffer between it and the socket.

    Args:
        buffer_bytes: how much is read ahead; longer fields are read to where they are to stay.
    """

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffer_bytes = buffer_bytes
        self._buffer: _Buffer | None = None

    def __call__(self, connection: socket.socket) -> tuple[bytearray, Any]:
        """The next message, as (command, content).

        Raises:
            SystemExit: TorchServe has closed the connection.
            ValueError: the command is unknown, or a name is not UTF-8.
            OSError: the connection broke.
        """
        if self._buffer is None or self._buffer.connection is not connection:
            self._buffer = _Buffer(connection, self._buffer_bytes)
        buffer = self._buffer
        if buffer.next_byte() != BATCH:
            command, content = otf_message_handler.retrieve_msg(buffer)
            return command, content
        command, batch = buffer.take(len(BATCH)), _batch(buffer)
        logging.info("Backend received inference at: %d", time.time())  # noqa: LOG015  (TorchServe's)
        return command, batch


class _Buffer:
    """What has come from a connection and is not read yet; reads like a socket, too."""

    __slots__ = ("_bytes", "_start", "_stop", "connection")

    def __init__(self, connection: socket.socket, size_bytes: int) -> None:
        self.connection = connection
        self._bytes = bytearray(size_bytes)
        self._start = 0
        self._stop = 0
        """Between these two lies what is not read yet."""

    def next_byte(self) -> bytearray:
        """The next byte, which stays."""
        if self._start == self._stop:
            self._fill(1)
        return self._bytes[self._start : self._start + 1]

    def recv(self, most: int) -> bytearray:
        """As of a socket: some bytes, at least one."""
        if self._start == self._stop:
            self._fill(1)
        return self.take(min(most, self._stop - self._start))

    def take_field(self) -> bytearray | None:
        """A length and so many bytes, which are the caller's; None for the end of a list.

        No bytes for any other negative length, as with TorchServe.
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
        """So many bytes, which are the caller's; none for a negative length, as with TorchServe."""
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
        """What the buffer cannot hold, read to where it is to stay."""
        taken = bytearray(length)
        have = self._stop - self._start
        taken[:have] = self._bytes[self._start : self._stop]
        self._start = self._stop = 0
        # Views are let go of at once: as long as one is left, a bytearray cannot grow.
        with memoryview(taken) as view:
            while have < length:
                have += self._receive(view[have:])
        return taken

    def _fill(self, least: int) -> None:
        """Read until so many bytes are there, at most the buffer's size."""
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


def _batch(buffer: _Buffer) -> list[dict[str, Any]]:
    """Requests until the end of the list, each as `_retrieve_request` gives it."""
    take = buffer.take_field
    # Where the server decodes bodies, TorchServe's own function does.
    read_input = otf_message_handler._retrieve_input_data if server_decodes() else _input  # noqa: SLF001
    requests = []
    while (identity := take()) is not None:
        headers = []
        while (name := take()) is not None:
            headers.append({"name": name, "value": _bytes(take())})
        inputs = []
        while (found := read_input(buffer)) is not None:
            inputs.append(found)
        requests.append({"requestId": identity, "headers": headers, "parameters": inputs})
    return requests


def _input(buffer: _Buffer) -> dict[str, Any] | None:
    """A body or a part of a form, as `_retrieve_input_data` gives it undecoded."""
    field = buffer.take_field()
    if field is None:
        return None
    name = field.decode("utf-8")
    content_type = _bytes(buffer.take_field()).decode("utf-8")
    value = _bytes(buffer.take_field())
    return {"name": name, "contentType": content_type, "value": value}


def _bytes(field: bytearray | None) -> bytearray:
    """Of a field that ends no list: its length is the only one that means nothing else."""
    return bytearray() if field is None else field
