"""Ending a worker that cannot serve any more, once its last answers are sent."""

from __future__ import annotations

import logging
import os
import socket
import threading

from ts.context import Context

__all__ = ["end_worker"]

logger = logging.getLogger(__name__)

GRACE_S = 10.0
"""How long the interpreter may take to end by itself; threads that are not ours may hang."""


def end_worker(context: Context) -> None:
    """Let this process end after it has sent the answers of the current batch.

    TorchServe's worker sends the answers, then reads the next batch, and ends in good order when
    there is nothing to read (ts/protocol/otf_message_handler.py, `_retrieve_buffer`). So closing
    the reading side of its socket loses no answer. TorchServe then starts a fresh worker.
    """
    connection = getattr(context, "cl_socket", None)
    if connection is None:
        logger.error("no connection to TorchServe: this process must be restarted by hand")
        return
    logger.error("this worker cannot serve any more; it ends, and TorchServe starts a fresh one")
    connection.shutdown(socket.SHUT_RD)
    threading.Thread(target=_make_sure, name="mbh-exit", daemon=True).start()


def _make_sure() -> None:
    threading.main_thread().join(GRACE_S)
    os._exit(1)
