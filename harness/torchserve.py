"""One real TorchServe, in a folder, ports and a process group of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from harness.java import java_home
from harness.model import Model
from harness.processes import alive, free_ports, group, is_free, kill, wait_gone
from harness.rest import RestClient
from harness.settings import LOG4J2, ROOT, Ports, config_properties, shipped_properties
from harness.wait import until

__all__ = ["LOGS", "TorchServe"]

START_S = 90
STOP_S = 60
ATTEMPTS = 3
"""How often a start is tried: another program may take a port before the server does."""

LONGEST_SOCKET_PATH = 107
"""The longest path that sockaddr_un.sun_path holds on Linux, with its closing zero."""

LOGS = ("ts_log.log", "model_log.log", "access_log.log", "console.log")


class TorchServe:
    """A server that starts when entered, and leaves nothing behind when left.

    Args:
        properties: more lines for config.properties; they override those of settings.py.
        environment: more environment variables for the frontend and its workers.
        shipped: whether to serve with the repository's config.properties and log4j2.xml, which are
            made for production, instead of those of settings.py.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        shipped: bool = False,
    ) -> None:
        self._properties = dict(properties or {})
        self._environment = dict(environment or {})
        self._shipped = shipped
        self._launcher: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None
        # Worker sockets lie here and Unix limits the length of their paths: a short name.
        self.folder = Path(tempfile.gettempdir(), f"ts-{secrets.token_hex(4)}")
        self.model_store = self.folder / "store"
        self.logs = self.folder / "logs"
        self._tmp = self.folder / "t"
        socket_path = self._tmp / ".ts.sock.65535"
        if len(str(socket_path)) > LONGEST_SOCKET_PATH:
            raise OSError(f"set TMPDIR to a shorter path: {socket_path} cannot be a Unix socket")

    def __enter__(self) -> TorchServe:  # noqa: PYI034  (typing.Self needs Python 3.11)
        try:
            for folder in (self.folder, self.model_store, self.logs, self._tmp):
                folder.mkdir()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        left = self.close()
        if error is None and left:
            raise AssertionError(f"the server left behind: {', '.join(left)}")

    @property
    def ports(self) -> Ports:
        """The ports of the running server."""
        if self._ports is None:
            raise RuntimeError("the server does not run")
        return self._ports

    @property
    def is_running(self) -> bool:
        """Whether the frontend runs."""
        return self._launcher is not None and alive(self._launcher.pid)

    @property
    def frontend_pid(self) -> int:
        """The process of the Java frontend, as the launcher noted it."""
        return int((self._tmp / ".model_server.pid").read_text(encoding="ascii"))

    def processes(self) -> list[int]:
        """Everything that runs for this server: launcher, frontend, workers, orphans too."""
        return group(self._launcher.pid) if self._launcher else []

    @property
    def tmp(self) -> Path:
        """The temporary folder of the frontend and its workers."""
        return self._tmp

    def socket_files(self) -> list[Path]:
        """The Unix sockets of the workers."""
        return sorted(self._tmp.glob(".ts.sock.*"))

    def rest(self) -> RestClient:
        """A client for one thread; use it in a `with` statement."""
        return RestClient(self.ports)

    def model(
        self, handler: str | Path, config: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Model:
        """A handler that is registered inside a `with` statement; arguments as for Model."""
        return Model(self, handler, config, **kwargs)

    def is_healthy(self) -> bool:
        """Whether /ping says that every model has its workers."""
        try:
            with self.rest() as client:
                return client.ping() == "Healthy"
        except requests.ConnectionError:
            return False

    def log(self, name: str = "model_log.log", start: int = 0) -> str:
        """A log's text from byte `start`; the workers' output is in model_log.log."""
        path = self.logs / name
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", "replace")

    def log_sizes(self) -> dict[str, int]:
        """How long each log is now."""
        return {
            name: (self.logs / name).stat().st_size if (self.logs / name).exists() else 0
            for name in LOGS
        }

    def wait_for_log(self, text: str, name: str = "model_log.log", timeout: float = 30) -> None:
        """Wait until a log holds `text`: the frontend writes what it reads from its workers."""
        until(lambda: text in self.log(name), f"{text!r} in {name}", timeout)

    def close(self) -> list[str]:
        """End the server and clear its folder; gives back what the server itself left behind."""
        left: list[str] = []
        if self._launcher is not None:
            self._stop()
            left += [f"process {pid}" for pid in self.processes()]
            kill(self.processes())
            self._launcher.wait()
            ports = vars(self.ports).values()
            left += [f"port {port}" for port in ports if not is_free(port)]
            left += [str(path) for path in (*self.socket_files(), *self._tmp.glob("mbh-*"))]
            self._launcher = None
        shutil.rmtree(self.folder, ignore_errors=True)
        return left

    def _start(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            self._ports = free_ports()
            self._launcher = self._launch(self._ports)
            try:
                until(self.is_healthy, "a healthy /ping", START_S, self._has_ended)
            except TimeoutError as error:
                kill(self.processes())
                self._launcher.wait()
                if attempt == ATTEMPTS:
                    raise RuntimeError(f"{error}\n{self.log('console.log')}") from error
            else:
                return

    def _launch(self, ports: Ports) -> subprocess.Popen[bytes]:
        properties = self.folder / "config.properties"
        text = shipped_properties if self._shipped else config_properties
        properties.write_text(text(ports, self.model_store, self._properties), encoding="utf-8")
        log4j2 = ROOT / "log4j2.xml" if self._shipped else self.folder / "log4j2.xml"
        if not self._shipped:
            log4j2.write_text(LOG4J2, encoding="utf-8")
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        command += ["--disable-token-auth", "--enable-model-api"]
        command += ["--ts-config", str(properties), "--log-config", str(log4j2)]
        command += ["--model-store", str(self.model_store)]
        with (self.logs / "console.log").open("ab") as console:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _env(self) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            # The worker must find the package in its archive, not in this checkout.
            if key not in {"PYTHONPATH", "ENABLE_TORCH_PROFILER"} and not key.startswith("TS_")
        }
        return {
            **inherited,
            "JAVA_HOME": str(java_home()),
            "TEMP": str(self._tmp),  # becomes java.io.tmpdir, where the worker sockets lie
            "TMPDIR": str(self._tmp),  # where the launcher keeps the frontend's pid
            "LOG_LOCATION": str(self.logs),
            "METRICS_LOCATION": str(self.logs),
            "OMP_NUM_THREADS": "1",
            **self._environment,
        }

    def _has_ended(self) -> str | None:
        ended = self._launcher is None or self._launcher.poll() is not None
        return "the server has ended" if ended else None

    def _stop(self) -> None:
        """End the frontend as `torchserve --stop` does, and give it time to end its workers."""
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(self.frontend_pid, 15)
        with contextlib.suppress(TimeoutError):
            for pid in self.processes():
                wait_gone(pid, STOP_S)
