"""A member's connections to hosts: one question at a time, and what is done while it waits."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Any

from micro_batch_handler.errors import HostMissing
from micro_batch_handler.hosting.arena import last_beat
from micro_batch_handler.hosting.messages import Question
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.hosting.transport import LOOK_EVERY, receive, send
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Connections", "HostConnection", "Pulse"]

logger = logging.getLogger(__name__)


LONGEST_LOOK_S = 2.0


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
        self._pid = 0
        self._beat = -1
        self._looked_s = 0.0
        self._still_s = 0.0

    def begin(self, pid: int) -> None:
        """A host has just said that it is ready, and which process it is.

        The system would name the process that has made the socket, which is a member.
        """
        self._pid = pid
        self._looked_s, self._still_s = self._clock.now_s(), 0.0
        self._beat = last_beat(self._shared.view)

    def look(self) -> None:
        """End the host if it stands still."""
        now_s, beat = self._clock.now_s(), last_beat(self._shared.view)
        # Where this process stands still too, with its container, the host cannot be blamed.
        self._still_s += min(now_s - self._looked_s, LONGEST_LOOK_S)
        self._looked_s = now_s
        if beat != self._beat:
            self._beat, self._still_s = beat, 0.0
        elif self._pid and self._limit_s is not None and self._still_s > self._limit_s:
            logger.error(
                "the process with the model has not moved for %.0f s: it is ended", self._still_s
            )
            self._still_s = 0.0
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, signal.SIGKILL)


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
            self._pulse.look()
            if give_up_s is not None and self._clock.now_s() > give_up_s:
                raise HostMissing(stage, "it has too much to do")

        try:
            send(self.socket, question)
            return receive(self.socket, look)
        except (OSError, EOFError):
            return None


class Connections:
    """All connections of a member, and the hosts that they lead to, by generations.

    Every method may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[HostConnection] = []
        self._open: set[socket.socket] = set()
        """Idle ones, those of questions, and that for the log."""
        self.generation = 0
        """How many hosts there have been."""
        self._pid: int | None = None
        self.up = False
        """Whether the latest of them answers, as far as is known."""
        self.closed = False
        """Whether the member has left."""

    def next_host(self, pid: int) -> int:
        """A host is ready; its generation.

        Args:
            pid: of its process. It may be the last one, which has closed some connection: what it
                still has of this member's memory stays its own.
        """
        with self._lock:
            self.generation += pid != self._pid
            self._pid = pid
            self.up = not self.closed
            return self.generation

    def generation_of(self, pid: int) -> int | None:
        """The latest host's generation, if this is its process."""
        with self._lock:
            return self.generation if pid == self._pid else None

    def add(self, connection: socket.socket) -> bool:
        """A connection was made; False if it must not be used, since the member has left."""
        with self._lock:
            self._open.add(connection)
            return not self.closed

    def take(self) -> tuple[HostConnection | None, int]:
        """An idle connection to the latest host, if there is one; and the host's generation."""
        with self._lock:
            return (self._idle.pop() if self.up and self._idle else None), self.generation

    def give_back(self, connection: HostConnection) -> None:
        """The connection is free for another question."""
        with self._lock:
            if connection.generation == self.generation and self.up:
                self._idle.append(connection)
                return
        self.drop(connection.socket)

    def lost(self, connection: HostConnection) -> None:
        """The host at its other end has ended."""
        self.drop(connection.socket)
        self.down(connection.generation)

    def drop(self, connection: socket.socket) -> None:
        """Close a connection."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def down(self, generation: int) -> None:
        """The host of this generation has ended."""
        with self._lock:
            if generation != self.generation or not self.up:
                return
            self.up = False
            idle, self._idle = self._idle, []
        for each in idle:
            self.drop(each.socket)

    def close(self) -> None:
        """The member leaves; a second call does nothing."""
        with self._lock:
            self.closed, self.up = True, False
            idle, self._idle = self._idle, []
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it
        for connection in idle:
            self.drop(connection.socket)
