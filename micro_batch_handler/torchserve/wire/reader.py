"""Batches, read from TorchServe's socket through a buffer.

TorchServe's worker makes system calls for every field of every request
(ts/protocol/otf_message_handler.py, `_retrieve_buffer`): several hundred for a batch of 32, which
cost more than a small model. Here a few large reads take in the whole batch. The requests that come
out are the same to the byte.

    handle_connection        ts/model_service_worker.py, the worker's one thread
      retrieve_msg           a name of that script, which `read_buffered` points here
        a batch              read here
        anything else        read by TorchServe's own functions, from the buffer

This replaces a private function of TorchServe. So it is done only in TorchServe's worker, only for
the release that it was made for, and only if nobody else has replaced that function. Otherwise
batches are read as ever, and the worker's log says why. `micro_batching: {buffered_reads: false}`
turns it off.

The socket is read only while the current message is incomplete. Bytes of the next message that come
along stay in the buffer.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from types import ModuleType
from typing import Any

import ts
from ts.protocol import otf_message_handler

from micro_batch_handler.torchserve.wire.buffer import SocketBuffer
from micro_batch_handler.torchserve.wire.decode import server_decodes

__all__ = ["MessageReader", "read_buffered"]

logger = logging.getLogger(__name__)

MADE_FOR = "0.12.0"
"""TorchServe's last release."""

BUFFER_BYTES = 256 * 1024
"""Some 32 requests of 8 KB: more saves no system calls that would be noticed."""

WORKER = "TorchModelServiceWorker"
"""A script that has this class is TorchServe's worker."""

OFF = "micro_batching.buffered_reads is off"

BATCH = b"I"
"""The command before a batch. TorchServe's name for it may change with its release."""


def read_buffered(script: ModuleType | None = None) -> bool:
    """Let TorchServe's worker read batches through a buffer; returns whether it does.

    Args:
        script: the module that this process runs; None for `__main__`.
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
        buffer_bytes: how much is read ahead. Longer fields are read without the buffer.
    """

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._buffer_bytes = buffer_bytes
        self._buffer: SocketBuffer | None = None

    def __call__(self, connection: socket.socket) -> tuple[bytearray, Any]:
        """The next message, as (command, content).

        Raises:
            SystemExit: TorchServe has closed the connection.
            ValueError: the command is unknown, or a name is not UTF-8.
            OSError: the connection broke.
        """
        if self._buffer is None or self._buffer.connection is not connection:
            self._buffer = SocketBuffer(connection, self._buffer_bytes)
        buffer = self._buffer
        if buffer.next_byte() != BATCH:
            command, content = otf_message_handler.retrieve_msg(buffer)
            return command, content
        command, batch = buffer.take(len(BATCH)), _batch(buffer)
        logging.info("Backend received inference at: %d", time.time())  # noqa: LOG015  (TorchServe's)
        return command, batch


def _batch(buffer: SocketBuffer) -> list[dict[str, Any]]:
    """The requests up to the end of the list, each as `_retrieve_request` returns it."""
    take = buffer.take_field
    # Where the server decodes bodies, its own function does so while it reads them.
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


def _input(buffer: SocketBuffer) -> dict[str, Any] | None:
    """A body or a part of a form, as `_retrieve_input_data` returns it, but undecoded."""
    field = buffer.take_field()
    if field is None:
        return None
    name = field.decode("utf-8")
    content_type = _bytes(buffer.take_field()).decode("utf-8")
    value = _bytes(buffer.take_field())
    return {"name": name, "contentType": content_type, "value": value}


def _bytes(field: bytearray | None) -> bytearray:
    """A field that cannot end a list: there, the length that ends a list means no bytes."""
    return bytearray() if field is None else field
