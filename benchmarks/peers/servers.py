"""Servers to compare, each started, checked and ended in the same way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import requests

from benchmarks.peers.environments import python_of
from benchmarks.peers.peer import Peer, Settings
from benchmarks.throughput.servers import HERE as THROUGHPUT
from benchmarks.throughput.servers import WrongAnswerError, expected_answers, same
from benchmarks.throughput.workload import Config, Workload
from harness.archives import pack
from harness.processes import free_ports, group, kill
from harness.ray_serve import RayServe
from harness.settings import OVERRIDES
from harness.torchserve import TorchServe
from harness.wait import until

__all__ = ["PeerServer", "RayServer", "Running", "Server", "TorchServeServer"]

QUIET = {"ACCESS_LOG_LEVEL": "off"}
"""For TorchServe, since no peer logs requests either."""

START_S = 120
STOP_S = 20
ANSWER_S = 60


@dataclass(frozen=True)
class Running:
    """A server that has answered right."""

    url: str
    bodies: Sequence[bytes]
    """As clients send them."""
    content_type: str
    unwrap: Callable[[Any], Any]
    """The decoded answer as the stages answer."""
    pids: Callable[[], list[int]]
    """All its processes."""
    restless: bool = False
    """Whether it is stopped until its turn."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The body of the `with` statement is its turn."""
        if not self.restless:
            yield
            return
        _signal_all(self.pids(), signal.SIGCONT)
        try:
            yield
        finally:
            _signal_all(self.pids(), signal.SIGSTOP)

    def ask(self, body: bytes) -> requests.Response:
        """One request over a connection of its own."""
        headers = {"content-type": self.content_type}
        return requests.post(self.url, data=body, headers=headers, timeout=ANSWER_S)


class Server(Protocol):
    """Something to compare: a name, the settings to choose from, and how it is started."""

    @property
    def key(self) -> str:
        """Its name in commands."""

    @property
    def title(self) -> str:
        """Its name in tables."""

    def settings(self, workload: Workload) -> Sequence[Settings]:
        """What a search chooses from."""

    def running(
        self, workload: Workload, settings: Settings, device: Path
    ) -> AbstractContextManager[Running]:
        """The server, checked, while the `with` statement runs.

        Raises:
            WrongAnswerError: an answer is not what it must be.
            RuntimeError: it does not start; with the end of its log.
        """


@dataclass(frozen=True)
class TorchServeServer:
    """A handler of throughput/contenders/ on TorchServe."""

    key: str
    title: str
    contender: str
    workers: int = 1
    decode: bool = True
    """`decode_input_request`: whether TorchServe decodes JSON bodies."""
    candidates: Mapping[str, Sequence[Config]] | None = None
    """By workload, what it adds to the workload's model-config.yaml; None for nothing."""

    def settings(self, workload: Workload) -> Sequence[Settings]:
        """What model-config.yaml may add."""
        return (self.candidates or {}).get(workload.name, ({},))

    @contextmanager
    def running(self, workload: Workload, settings: Settings, device: Path) -> Iterator[Running]:
        """Archive, server, workers."""
        properties = {**OVERRIDES, "decode_input_request": str(self.decode).lower()}
        helpers = _helpers(workload)
        handler = THROUGHPUT / "contenders" / f"{self.contender}.py"
        config = workload.config_for(settings, str(device))
        with (
            TorchServe(properties, QUIET, shipped=True) as server,
            server.model(handler, config, helpers=helpers, initial_workers=self.workers) as model,
        ):
            url = f"http://127.0.0.1:{server.ports.inference}/predictions/{model.name}"
            running = Running(
                url,
                workload.bodies(),
                workload.content_type,
                lambda answer: answer,
                server.processes,
            )
            _check(running, workload, self)
            yield running


@dataclass(frozen=True)
class RayServer:
    """A handler of throughput/contenders/ as an archive on Ray Serve."""

    key: str
    title: str
    contender: str
    candidates: Mapping[str, Sequence[Config]] | None = None
    """By workload, what it adds to the workload's model-config.yaml; None for nothing."""

    def settings(self, workload: Workload) -> Sequence[Settings]:
        """What model-config.yaml may add."""
        return (self.candidates or {}).get(workload.name, ({},))

    @contextmanager
    def running(self, workload: Workload, settings: Settings, device: Path) -> Iterator[Running]:
        """Archive, Ray, one replica."""
        handler = THROUGHPUT / "contenders" / f"{self.contender}.py"
        config = workload.config_for(settings, str(device))
        with tempfile.TemporaryDirectory(prefix="peer-") as folder:
            archive = pack("model", handler, config, Path(folder), helpers=_helpers(workload))
            port = free_ports().inference
            # As peers/ray/serve.py: one replica hears clients by itself, with no proxy before it.
            direct = {
                "RAY_SERVE_ENABLE_HA_PROXY": "0",
                "RAY_SERVE_DEFAULT_HTTP_HOST": "127.0.0.1",
                "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
                "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
            }
            arguments = ("--quiet", "--replicas", "1")
            with RayServe([archive], *arguments, environment=direct) as served:
                running = Running(
                    f"http://127.0.0.1:{port}/predictions/model",
                    workload.bodies(),
                    workload.content_type,
                    lambda answer: answer,
                    lambda: _family(served.process.pid),
                )
                _check(running, workload, self)
                yield running


@dataclass(frozen=True)
class PeerServer:
    """A peer, in a process group and a virtual environment of its own."""

    peer: Peer

    @property
    def key(self) -> str:
        """The peer's."""
        return self.peer.key

    @property
    def title(self) -> str:
        """The peer's."""
        return self.peer.title

    def settings(self, workload: Workload) -> Sequence[Settings]:
        """What the peer recommends."""
        return self.peer.settings[workload.stages]

    @contextmanager
    def running(self, workload: Workload, settings: Settings, device: Path) -> Iterator[Running]:
        """Its serve.py, until it answers; then SIGTERM, and an end to what is left."""
        with tempfile.TemporaryDirectory(prefix="peer-") as name:
            folder = Path(name)
            shutil.copy(THROUGHPUT / "stages" / f"{workload.stages}.py", folder / "stages.py")
            shutil.copy(THROUGHPUT / "accelerator.py", folder)
            port = free_ports().inference
            command = [str(python_of(self.peer)), str(_folder(self.peer) / "serve.py")]
            command += ["--stages", str(folder), "--port", str(port)]
            command += ["--config", json.dumps(workload.config_for({}, str(device)))]
            command += ["--settings", json.dumps(dict(settings))]
            log = folder / "log"
            with log.open("wb") as file:
                process = subprocess.Popen(  # noqa: S603
                    command,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            bodies = [self.peer.wrap(workload, body) for body in workload.bodies()]
            running = Running(
                f"http://127.0.0.1:{port}{self.peer.path}",
                bodies,
                self.peer.content_type(workload),
                self.peer.unwrap,
                lambda: _family(process.pid),
                self.peer.restless,
            )
            try:
                with running.turn():
                    _wait_ready(running, process, log)
                    _check(running, workload, self)
                yield running
            finally:
                _end(process)


def _helpers(workload: Workload) -> dict[str, Path]:
    return {
        "stages.py": THROUGHPUT / "stages" / f"{workload.stages}.py",
        "accelerator.py": THROUGHPUT / "accelerator.py",
    }


def _folder(peer: Peer) -> Path:
    return Path(__file__).with_name(peer.key)


def _wait_ready(running: Running, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        try:
            return running.ask(running.bodies[0]).ok
        except requests.ConnectionError:
            return False

    def ended() -> str | None:
        return None if process.poll() is None else "it has ended"

    try:
        until(answers, "a first answer", START_S, ended)
    except TimeoutError as error:
        end = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"{error}\n{end}") from error


def _check(running: Running, workload: Workload, server: Server) -> None:
    """Every body, alone."""
    for index, (body, expected) in enumerate(
        zip(running.bodies, expected_answers(workload), strict=True)
    ):
        answer = running.ask(body)
        if not answer.ok or not same(running.unwrap(answer.json()), expected):
            raise WrongAnswerError(
                f"{workload.name}, {server.title}: body {index} is answered "
                f"{answer.status_code} {answer.text[:200]}"
            )


def _family(leader: int) -> list[int]:
    """The processes of its group and all it has started, which may have groups of their own."""
    try:
        children = psutil.Process(leader).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    return sorted({*group(leader), *(child.pid for child in children)})


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    family = _family(process.pid)
    _signal_all(family, signal.SIGCONT)  # what is stopped hears of nothing else
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"process {process.pid} did not end by SIGTERM; it is killed\n")
    kill({*family, *group(process.pid)})
    process.wait()
