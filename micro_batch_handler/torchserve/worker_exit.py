"""Ending a worker that cannot serve any more, so that TorchServe starts a fresh one.

When the worker ends matters to the frontend, which tells its clients only while it waits for an
answer: requests that it is just collecting into a batch are dropped without a word. So

    under load      the worker ends when the next batch comes: its clients get "Worker died."
    when idle       it stops listening, and TorchServe's loop ends in good order

Either way the process ends before the interpreter frees what it holds: freeing what is on a lost
device aborts, and lanes that hang may be inside PyTorch.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import threading
from contextlib import suppress

from ts.context import Context

__all__ = ["end_at_next_batch", "end_now"]

logger = logging.getLogger(__name__)

IDLE_S = 1.0
"""How long to wait for another batch, beyond the time that TorchServe collects one."""

GRACE_S = 10.0
"""How long the interpreter may take to end by itself; threads that are not ours may hang."""

_ends = threading.Event()
"""Whether this process cannot serve any more."""


def end_at_next_batch(context: Context) -> bool:
    """Let this process end after the answers of the current batch; False where it is no worker."""
    connection = getattr(context, "cl_socket", None)
    if connection is None:
        logger.error("no connection to TorchServe: this process must be restarted by hand")
        return False
    logger.error("this worker cannot serve any more; it ends, and TorchServe starts a fresh one")
    _ends.set()
    model_yaml = getattr(context, "model_yaml_config", None) or {}
    delay_ms = model_yaml.get("maxBatchDelay")
    idle_s = IDLE_S + (delay_ms / 1000 if isinstance(delay_ms, int) else 0)
    arguments = (connection, idle_s)
    threading.Thread(target=_end_idle, args=arguments, name="mbh-exit", daemon=True).start()
    return True


def end_now() -> None:
    """End this process at once, while TorchServe waits for a batch's answers perhaps."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1)


@atexit.register
def _end_before_freeing() -> None:
    """Registered before a handler's own exit handlers are, so called after them."""
    if _ends.is_set():
        end_now()


def _end_idle(connection: socket.socket, idle_s: float) -> None:
    never = threading.Event()
    never.wait(idle_s)
    # The worker finds nothing to read and exits (ts/protocol/otf_message_handler.py,
    # `_retrieve_buffer`).
    connection.shutdown(socket.SHUT_RD)
    never.wait(GRACE_S)
    os._exit(1)
