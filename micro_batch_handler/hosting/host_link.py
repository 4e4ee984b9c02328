"""A member's way to the model host: connections, and an election when there is no host.

connection()    one that nobody else uses now; to another host, if the last one has ended
a thread        reads what the host and the handler in it write, and logs it here
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from micro_batch_handler.errors import ConfigError, HostMissing
from micro_batch_handler.hosting.greeting import LoadError, greeting_on, introduce
from micro_batch_handler.hosting.host_connection import Connections, HostConnection, Pulse
from micro_batch_handler.hosting.host_starter import HostStarter, tell
from micro_batch_handler.hosting.meeting_place import MeetingPlace, StartedHost
from micro_batch_handler.hosting.messages import Hello, Ready
from micro_batch_handler.hosting.remote_errors import unpacked
from micro_batch_handler.hosting.shared_memory import SharedMemory
from micro_batch_handler.hosting.transport import receive_one
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["HostLink"]

logger = logging.getLogger(__name__)

TRY_EVERY_S = 0.05
"""While another member starts the host, or the last host is ending."""

PAUSE_S = 1.0
"""After a host that could not load the model."""


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
        self.starter = HostStarter(place, start)
        """Knows the host that was started here, if one was."""
        self._shared = shared
        self._clock = clock or Clock()
        self._pulse = Pulse(shared, still_s, self._clock)
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._electing = threading.Lock()
        self.connections = Connections()
        """Those that are open, and which host they lead to."""
        self._first: socket.socket | None = None
        """A connection that was made before the host had loaded the model."""
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
            if not self.connections.up:
                self._connect_first(None, raises=True)

    def connection(self, stage: str, until_s: float | None) -> HostConnection:
        """A connection that nobody else uses.

        Raises:
            HostMissing: there was no host in time.
        """
        known = self.connections
        while True:
            if known.closed:
                raise HostMissing(stage, "the handler was closed")
            idle, latest = known.take()
            if idle is not None:
                return idle
            if known.up:
                # It may lead to another host, which has just taken the place of the latest.
                with suppress(LoadError):
                    connection = self._introduced(listens=False)
                    if connection is not None:
                        host = self._greeted(connection, until_s, watched=True)
                        generation = host and known.generation_of(host.pid)
                        if generation is not None:
                            return HostConnection(connection, generation, self._pulse, self._clock)
                        known.drop(connection)
                known.down(latest)
            self.find(stage, until_s)

    def close(self) -> None:
        """Leave the host: who waits for it gets `HostMissing`. A second call does nothing."""
        self.connections.close()
        if self._first is not None:  # nobody has begun to read from it
            self.connections.drop(self._first)

    def __repr__(self) -> str:
        if not self.connections.up or self.ready is None:
            return "no host"
        return f"host {self.ready.pid}, {self.restarts} restarts"

    def find(self, stage: str, until_s: float | None) -> None:
        """Look for a host where the latest has ended: in one thread, for which the others wait.

        Raises:
            HostMissing: there was no host in time.
        """
        left_s = -1.0 if until_s is None else max(0.0, until_s - self._clock.now_s())
        if not self._electing.acquire(timeout=left_s):
            raise HostMissing(stage)
        try:
            if not self.connections.up:
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
        connection, self._first = self._first, None
        while not self.connections.closed:
            try:
                if self._connected(connection, until_s):
                    return
                why = self.starter.last_words()
                if why and raises:
                    error = RuntimeError(f"the process with the model failed: {why}")
                    raise LoadError(error)  # noqa: TRY301
                tell(why)
                started = self._start_one()
            except (LoadError, ConfigError) as error:
                if raises:
                    raise
                started, why = False, str(error)
                logger.error("the model cannot be loaded again: %s", error, exc_info=error)  # noqa: TRY400
                time.sleep(PAUSE_S)
            if until_s is not None and self._clock.now_s() >= until_s:
                raise HostMissing(stage, why)
            connection = None
            if not started:
                time.sleep(TRY_EVERY_S)
        raise HostMissing(stage, "the handler was closed")

    def _connected(self, connection: socket.socket | None, until_s: float | None) -> bool:
        """Whether a host has said, on this connection or a new one, that it is ready."""
        connection = connection or self._introduced(listens=True)
        if connection is None or (host := self._greeted(connection, until_s)) is None:
            return False
        self._pulse.begin(host.pid)
        generation = self.connections.next_host(host.pid)
        threading.Thread(
            target=self._log, args=(connection, generation), name="mbh-host-log", daemon=True
        ).start()
        return True

    def _start_one(self) -> bool:
        """Start a host, unless one runs or starts; whether it was started."""
        started = self.starter.start()
        if started and self.connections.generation:
            self.restarts += 1
        return started

    def _introduced(self, *, listens: bool) -> socket.socket | None:
        """A connection on which the member has said who it is; None if there is no host."""
        connection = self._place.connect()
        if connection is None:
            return None
        hello = Hello(self._name, self._shared.size_bytes, listens)
        if self.connections.add(connection) and introduce(connection, hello, self._shared.fd):
            return connection
        self.connections.drop(connection)
        return None

    def _greeted(
        self, connection: socket.socket, until_s: float | None, *, watched: bool = False
    ) -> Ready | None:
        """What the host says once it is ready; None if it has not in time.

        Args:
            connection: on which the member has said who it is.
            until_s: how long to wait.
            watched: whether the host was ready before, and is ended if it stands still.

        Raises:
            LoadError: the host cannot load the model.
        """
        left_s = None if until_s is None else max(TRY_EVERY_S, until_s - self._clock.now_s())
        look = partial(self._look, until_s) if watched else None
        greeting = greeting_on(connection, left_s, look)
        if isinstance(greeting, Ready):
            self.ready = greeting
            return greeting
        self.connections.drop(connection)
        if greeting is not None:
            raise LoadError(unpacked(greeting.error))
        return None

    def _look(self, until_s: float | None) -> None:
        self._pulse.look()
        if until_s is not None and self._clock.now_s() > until_s:
            raise TimeoutError

    def _log(self, connection: socket.socket, generation: int) -> None:
        """Write what the host writes, as if it had been written here."""
        with suppress(OSError, EOFError, ValueError):
            while True:
                sys.stdout.write(receive_one(connection).text)
                sys.stdout.flush()
        self.connections.drop(connection)
        if not self.connections.closed:
            self.connections.down(generation)
            tell(self.starter.last_words())
