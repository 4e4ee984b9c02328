"""A member's connection to the host: one question at a time, and what is done while it waits."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
from contextlib import suppress
from typing import Any

from micro_batch_handler.errors import HostMissing
from micro_batch_handler.hosting.arena import last_beat
from micro_batch_handler.hosting.messages import Question
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.hosting.transport import peer_of, receive, send
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["HostConnection", "Pulse"]

logger = logging.getLogger(__name__)

LOOK_EVERY = struct.pack("ll", 1, 0)
"""Seconds and microseconds from one look at the time to the next, while a reply is waited for."""


class Pulse:
    """Whether a host moves: it writes another number into the member's memory all the time.

    A host that is stopped, or whose model does not let go of the interpreter's lock, cannot end
    itself; a member then ends it, and the next host takes its place.

    Args:
        shared: the member's memory.
        limit_s: how long the host may stand still; None for any time.
        clock: the time.
    """

    def __init__(self, shared: SharedMemory, limit_s: float | None, clock: Clock) -> None:
        self._shared = shared
        self._limit_s = limit_s
        self._clock = clock
        self._beat = -1
        self._since_s = 0.0

    def begin(self) -> None:
        """A host has just said that it is ready."""
        self._since_s = self._clock.now_s()

    def look(self, connection: socket.socket) -> None:
        """End the host at the other end if it stands still."""
        now_s, beat = self._clock.now_s(), last_beat(self._shared.view)
        if beat != self._beat:
            self._beat, self._since_s = beat, now_s
        elif self._limit_s is not None and now_s > self._since_s + self._limit_s:
            peer = peer_of(connection)
            if peer is not None:
                logger.error(
                    "the process with the model has not moved for %.0f s: it is ended",
                    now_s - self._since_s,
                )
                self._since_s = now_s
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(peer[0], signal.SIGKILL)


class HostConnection:
    """One connection, for one question at a time.

    Args:
        connection: on which the host has said that it is ready.
        generation: which host it leads to.
        pulse: of that host.
        clock: the time.
    """

    def __init__(
        self, connection: socket.socket, generation: int, pulse: Pulse, clock: Clock
    ) -> None:
        self.socket = connection
        self.generation = generation
        self._pulse = pulse
        self._clock = clock
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LOOK_EVERY)

    def ask(self, stage: str, question: Question, give_up_s: float | None) -> Any:
        """What the host replies; None if it has ended.

        Args:
            stage: for the error.
            question: to ask.
            give_up_s: when to wait no longer, as a moment of the clock.

        Raises:
            HostMissing: no reply came in time.
        """

        def look() -> None:
            self._pulse.look(self.socket)
            if give_up_s is not None and self._clock.now_s() > give_up_s:
                raise HostMissing(stage, "it has too much to do")

        try:
            send(self.socket, question)
            return receive(self.socket, look)
        except (OSError, EOFError):
            return None
