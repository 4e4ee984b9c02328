"""Where members of one model meet, and which of them starts the model host.

A folder of the server's temporary folder holds a lock and a socket. Who gets the lock binds the
socket, starts the host and hands both to it. The host holds the lock as long as it lives, however
it ends: the system opens the lock then, and the next member starts another host. Members that
connect meanwhile wait in the socket's queue.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from micro_batch_handler.errors import ConfigError

__all__ = ["MeetingPlace", "StartedHost"]

LONGEST_SOCKET_PATH = 107 if os.uname().sysname == "Linux" else 103
"""Characters of sockaddr_un.sun_path, without its closing zero."""

BACKLOG = 1024

_held: set[int] = set()
"""Descriptors of locks and sockets of this process."""


@contextmanager
def _kept_from_forks(*fds: int) -> Iterator[None]:
    """In the body, let no process that is forked from this one keep these descriptors.

    It would keep the place of a host that has ended, and its members waiting. What executes a
    program lets go of them in any case.
    """
    _held.update(fds)
    try:
        yield
    finally:
        _held.difference_update(fds)


def _close_held() -> None:
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_close_held)

PREFIX = "mbh-"


@dataclass
class StartedHost:
    """A host that this process has started."""

    process: subprocess.Popen[bytes]
    output: Path
    """What it writes until it can send that to a member, and when it crashes."""

    def last_words(self) -> str:
        """How it ended and the end of its output; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        with suppress(OSError):
            text = self.output.read_text("utf-8", "replace").strip()[-2000:]
            return f"it ended {how}" + (f": {text}" if text else "")
        return f"it ended {how}"


class MeetingPlace:
    """The folder in which the members of one model meet.

    Args:
        key: stands for server, model, folder, settings and device.

    Raises:
        ConfigError: the temporary folder cannot hold the socket, or the folder belongs to somebody
            else.
    """

    def __init__(self, key: str) -> None:
        self.folder = Path(tempfile.gettempdir(), f"{PREFIX}{key}")
        self._socket = self.folder / "socket"
        self._lock = self.folder / "lock"
        length = len(os.fsencode(self._socket))
        if length > LONGEST_SOCKET_PATH:
            raise ConfigError(
                f"share_model needs a Unix socket, and its path {self._socket} has {length} "
                f"characters, {LONGEST_SOCKET_PATH} at most. Set TMPDIR to a shorter path where "
                f"TorchServe starts"
            )
        self._make_folder()

    def connect(self) -> socket.socket | None:
        """A connection to the host, or to the queue of one that starts; None if there is none."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._socket))
        except OSError:
            connection.close()
            return None
        return connection

    def start_host(
        self, command: Sequence[str], job: bytes, environment: dict[str, str]
    ) -> StartedHost | None:
        """Start the host, unless one runs or starts; None then.

        Args:
            command: that becomes the host; the descriptors of lock and listening socket are added.
            job: what the host reads from its standard input.
            environment: of the host.

        Raises:
            ConfigError: the folder cannot be written to, or the system starts no process.
        """
        lock = self._take_lock()
        if lock is None:
            return None
        try:
            self._sweep()
            with _kept_from_forks(lock):
                process, output = self._launch(command, lock, environment)
        except OSError as error:
            raise ConfigError(
                f"the process with the model cannot be started: {error}. Set TMPDIR to a folder "
                f"with space that TorchServe may write to, or raise the limits of this user for "
                f"processes and open files (ulimit -u, ulimit -n)"
            ) from error
        finally:
            os.close(lock)  # the host has its own
        assert process.stdin is not None  # noqa: S101  (it is a pipe)
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(job)
        return StartedHost(process, output)

    def _launch(
        self, command: Sequence[str], lock: int, environment: dict[str, str]
    ) -> tuple[subprocess.Popen[bytes], Path]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listener, _kept_from_forks(listener.fileno()):
            self._socket.unlink(missing_ok=True)  # of a host that was killed
            listener.bind(str(self._socket))
            listener.listen(BACKLOG)
            fds = (lock, listener.fileno())
            output = self.folder / "output"
            with output.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603  (our own module)
                    [*command, *map(str, fds)],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    pass_fds=fds,
                )
        return process, output

    def is_held_by(self, lock: int) -> bool:
        """Whether this descriptor of the lock still counts: somebody may have removed the file."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(lock), self._lock.stat())
        return False

    def remove(self) -> None:
        """The host, which holds the lock, has ended in good order: nothing is left behind."""
        for name in ("socket", "output", "lock"):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # a member is about to start the next host in it
            self.folder.rmdir()

    def remove_unused(self) -> None:
        """Remove what a host has left that could not do it itself; nothing if one runs or starts.

        Raises:
            ConfigError: the folder cannot be read.
        """
        lock = self._take_lock()
        if lock is not None:
            self.remove()
            os.close(lock)

    def _sweep(self) -> None:
        """Remove what hosts have left that were killed together with their server."""
        for folder in self.folder.parent.glob(f"{PREFIX}*"):
            with suppress(OSError, ConfigError):
                MeetingPlace(folder.name.removeprefix(PREFIX)).remove_unused()

    def _make_folder(self) -> None:
        try:
            found = self._made_folder()
        except OSError as error:
            raise ConfigError(
                f"share_model needs a folder for a Unix socket: {error}. Set TMPDIR to a folder "
                f"that TorchServe may write to"
            ) from error
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
        if not private or found.st_uid != os.geteuid():
            raise ConfigError(
                f"{self.folder} must be a folder that only this user can enter. Remove it, or set "
                f"TMPDIR to a folder of this user's"
            )

    def _made_folder(self) -> os.stat_result:
        while True:
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            with suppress(FileNotFoundError):  # a host that ended has just removed it
                return self.folder.lstat()

    def _take_lock(self) -> int | None:
        """The lock's descriptor; None if a host has it."""
        while True:
            self._make_folder()
            try:
                lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # a host that ended has just removed the folder
            except OSError as error:
                raise ConfigError(f"share_model needs {self._lock}: {error}") from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
            if self.is_held_by(lock):
                return lock
            os.close(lock)  # the file was removed meanwhile: another one counts
