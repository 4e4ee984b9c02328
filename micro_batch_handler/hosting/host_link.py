"""A member's way to the model host: connections, and an election when there is no host.

connection()    one that nobody else uses now; to another host, if the last one has ended
a thread        reads what the host and the handler in it write, and logs it here
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from micro_batch_handler.errors import ConfigError, HostMissing
from micro_batch_handler.hosting.host_connection import HostConnection, Pulse
from micro_batch_handler.hosting.meeting_place import MeetingPlace, StartedHost
from micro_batch_handler.hosting.messages import Hello, LoadFailed, Ready
from micro_batch_handler.hosting.remote_errors import unpacked
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.hosting.transport import check_peer, receive_one, send_hello
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["HostLink", "LoadError"]

logger = logging.getLogger(__name__)

TRY_EVERY_S = 0.05
"""While another member starts the host, or the last host is ending."""

PAUSE_S = 1.0
"""After a host that could not load the model."""


class LoadError(Exception):
    """The model host cannot load the model; `error` is why."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class HostLink:
    """Finds the host of a model, or starts one.

    Args:
        place: where the members meet.
        start: starts a host there, unless one runs or starts.
        shared: the member's memory.
        clock: the time.
        still_s: how long a host may stand still; None for any time.
    """

    def __init__(
        self,
        place: MeetingPlace,
        start: Callable[[MeetingPlace], StartedHost | None],
        shared: SharedMemory,
        clock: Clock | None = None,
        still_s: float | None = None,
    ) -> None:
        self._place = place
        self._start = start
        self._shared = shared
        self._clock = clock or Clock()
        self._pulse = Pulse(shared, still_s, self._clock)
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._electing = threading.Lock()
        self._lock = threading.Lock()
        self._idle: list[HostConnection] = []
        self._generation = 0
        self._up = False
        self._closed = False
        self._started: StartedHost | None = None
        self._first: socket.socket | None = None
        """A connection that was made before the host had loaded the model."""
        self._open: set[socket.socket] = set()
        """All connections: idle ones, those of questions, and that for the log."""
        self.ready: Ready | None = None
        """What the host said last."""
        self.restarts = 0
        """Hosts that this member has started in place of one that was lost."""

    def begin(self) -> None:
        """Start the host, unless one runs or starts, and do not wait for it.

        Raises:
            ConfigError: it cannot be started.
        """
        self._start_one()
        # The host stays as long as somebody is connected, however long this member takes.
        self._first = self._introduced(listens=True)

    def load(self) -> None:
        """Wait until the host has loaded the model; start it if there is none.

        Raises:
            LoadError: it cannot.
        """
        with self._electing:
            if not self._up:
                self._connect_first(None, raises=True)

    def connection(self, stage: str, until_s: float | None) -> HostConnection:
        """A connection that nobody else uses.

        Raises:
            HostMissing: there was no host in time.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise HostMissing(stage, "the handler was closed")
                if self._up and self._idle:
                    return self._idle.pop()
                generation, up = self._generation, self._up
            if up:
                # Not of a host that has just taken the place of the last, and still loads.
                with suppress(LoadError):
                    connection = self._greeted(self._introduced(listens=False), until_s)
                    if connection is not None:
                        return HostConnection(connection, generation, self._pulse, self._clock)
                self._down(generation)
            self._find(stage, until_s)

    @property
    def generation(self) -> int:
        """How many hosts there have been for this member."""
        return self._generation

    def give_back(self, connection: HostConnection) -> None:
        """The connection is free for another question."""
        with self._lock:
            if connection.generation == self._generation and self._up:
                self._idle.append(connection)
                return
        self.drop(connection.socket)

    def lost(self, connection: HostConnection) -> None:
        """The host at its other end has ended."""
        self.drop(connection.socket)
        self._down(connection.generation)

    def drop(self, connection: socket.socket) -> None:
        """Close a connection."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def close(self) -> None:
        """Leave the host: who waits for it gets `HostMissing`. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._up = False
            idle = [each.socket for each in self._idle]
            self._idle.clear()
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)  # whoever reads from it closes it
        for each in idle:
            self.drop(each)

    def __repr__(self) -> str:
        if not self._up or self.ready is None:
            return "no host"
        return f"host {self.ready.pid}, {self.restarts} restarts"

    def _down(self, generation: int) -> None:
        with self._lock:
            if generation != self._generation or not self._up:
                return
            self._up = False
            sockets = [each.socket for each in self._idle]
            self._idle.clear()
        for each in sockets:
            self.drop(each)

    def _find(self, stage: str, until_s: float | None) -> None:
        """Let one thread look for a host; the others wait for it."""
        left_s = -1.0 if until_s is None else max(0.0, until_s - self._clock.now_s())
        if not self._electing.acquire(timeout=left_s):
            raise HostMissing(stage)
        try:
            if not self._up:
                logger.warning("the process with the model has ended; looking for another one")
                began_s = self._clock.now_s()
                self._connect_first(until_s, raises=False, stage=stage)
                logger.warning(
                    "the model answers again, after %.1f s", self._clock.now_s() - began_s
                )
        finally:
            self._electing.release()

    def _connect_first(self, until_s: float | None, *, raises: bool, stage: str = "") -> None:
        """Connect to a host, started here if need be."""
        why = ""
        connection, self._first = self._first, None
        while not self._closed:
            try:
                greeted = self._greeted(connection or self._introduced(listens=True), until_s)
            except LoadError as error:
                if raises:
                    raise
                why = f"{type(error.error).__name__}: {error.error}"
                logger.error("the model cannot be loaded again", exc_info=error.error)  # noqa: TRY400
                time.sleep(PAUSE_S)
            else:
                if greeted is not None:
                    self._now_up(greeted)
                    return
                why = self._last_words() or why
                if why and raises:
                    raise LoadError(RuntimeError(f"the process with the model failed: {why}"))
            if until_s is not None and self._clock.now_s() >= until_s:
                raise HostMissing(stage, why)
            connection = None
            try:
                started = self._start_one()
            except ConfigError as error:
                if raises:
                    raise
                started, why = False, str(error)
            if not started:
                time.sleep(TRY_EVERY_S)
        raise HostMissing(stage, "the handler was closed")

    def _start_one(self) -> bool:
        """Start a host, unless one runs or starts; whether it was started."""
        started = self._start(self._place)
        if started is None:
            return False
        if self._generation:
            self.restarts += 1
        self._started = started
        # Waited for, so that it is no zombie once it has ended.
        threading.Thread(target=started.process.wait, name="mbh-host-wait", daemon=True).start()
        logger.info("started process %d, which loads the model", started.process.pid)
        return True

    def _last_words(self) -> str:
        """How the host that was started here has ended; empty if it runs, or another has."""
        started = self._started
        if started is None:
            return ""
        with suppress(subprocess.TimeoutExpired):  # its connections close before it has ended
            started.process.wait(TRY_EVERY_S)
        words = started.last_words()
        if words and self._started is started:
            self._started = None
        return words

    def _now_up(self, connection: socket.socket) -> None:
        with self._lock:
            self._generation += 1
            self._up = not self._closed
            self._pulse.begin()
        threading.Thread(
            target=self._log,
            args=(connection, self._generation),
            name="mbh-host-log",
            daemon=True,
        ).start()

    def _introduced(self, *, listens: bool) -> socket.socket | None:
        """A connection on which the member has said who it is; None if there is no host."""
        connection = self._place.connect()
        if connection is None:
            return None
        with self._lock:
            closed = self._closed
            self._open.add(connection)
        try:
            if not closed:
                check_peer(connection)
                hello = Hello(self._name, self._shared.size_bytes, listens)
                send_hello(connection, hello, self._shared.fd)
                return connection
        except (OSError, EOFError):
            pass
        self.drop(connection)
        return None

    def _greeted(
        self, connection: socket.socket | None, until_s: float | None
    ) -> socket.socket | None:
        """The connection once the host has said that it is ready; None if it has not in time.

        Raises:
            LoadError: the host cannot load the model.
        """
        if connection is None:
            return None
        try:
            if until_s is not None:  # it may load for longer
                connection.settimeout(max(TRY_EVERY_S, until_s - self._clock.now_s()))
            greeting = receive_one(connection)
            connection.settimeout(None)
        except (OSError, EOFError):
            self.drop(connection)
            return None
        if isinstance(greeting, LoadFailed):
            self.drop(connection)
            raise LoadError(unpacked(greeting.error))
        self.ready = greeting
        return connection

    def _log(self, connection: socket.socket, generation: int) -> None:
        """Write what the host writes, as if it had been written here."""
        with suppress(OSError, EOFError, ValueError):
            while True:
                sys.stdout.write(receive_one(connection).text)
                sys.stdout.flush()
        self.drop(connection)
        if not self._closed:
            self._down(generation)
            words = self._last_words()
            if words:
                logger.warning("the process with the model: %s", words)
