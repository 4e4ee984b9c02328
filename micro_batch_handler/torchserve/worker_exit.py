"""Ends a worker that cannot serve any more, so that TorchServe starts a fresh one.

The frontend tells clients that their worker died only while it waits for an answer. Requests that
it is collecting into a batch are dropped without a word. So the moment matters:

    under load      the worker ends when the next batch comes: its clients get "Worker died."
    when idle       the worker stops listening, and TorchServe's loop ends in good order

In both cases the process ends before the interpreter frees its objects: freeing memory of a lost
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

from micro_batch_handler.torchserve.views import routes_of

__all__ = ["end_at_next_batch", "end_now"]

logger = logging.getLogger(__name__)

IDLE_S = 1.0
"""How long to wait for another batch, on top of the time in which TorchServe collects one."""

GRACE_S = 10.0
"""How long the interpreter may take to end by itself; threads of the handler may hang."""

_ends = threading.Event()
"""Set once this process cannot serve any more."""


def end_at_next_batch(context: Context) -> bool:
    """Let this process end after the answers of the current batch.

    Returns:
        Whether the next batch is to end it: not if it is no worker, nor where other batches are
        under way, on Ray, whose answers would be lost. There it ends after some seconds.
    """
    connection = getattr(context, "cl_socket", None)
    if connection is None:
        logger.error("no connection to TorchServe: this process must be restarted by hand")
        return False
    routes = routes_of(context)
    alone = routes is None or not routes.several_batches
    if _ends.is_set():
        return alone
    logger.error("this worker cannot serve any more; it ends, and a fresh one is started")
    _ends.set()
    model_yaml = getattr(context, "model_yaml_config", None) or {}
    delay_ms = model_yaml.get("maxBatchDelay")
    idle_s = IDLE_S + (delay_ms / 1000 if isinstance(delay_ms, int) else 0)
    arguments = (connection, idle_s)
    threading.Thread(target=_end_idle, args=arguments, name="mbh-exit", daemon=True).start()
    return alone


def end_now() -> None:
    """End this process at once, even if TorchServe waits for the answers of a batch."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1)


@atexit.register
def _end_before_freeing() -> None:
    """Registered before a handler's own exit handlers, and so called after them."""
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
