"""TorchServe's worker process, driven by the test instead of the Java frontend.

So a test needs no Java, and can close the worker's socket when it likes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.wait import until
from harness.wire import Answer, Request, frame, read, text

__all__ = ["Worker"]

START_S = 60
CALL_S = 60
OK = 200


class Worker:
    """A worker that has loaded the model in `folder` (an archive of format no-archive).

    Use it in a `with` statement: it starts when entered and is killed when left.
    """

    def __init__(
        self, folder: Path, handler: str, batch_size: int = 1, gpu: int | None = None
    ) -> None:
        self._folder = folder
        self._gpu = gpu
        self._handler = handler
        self._batch_size = batch_size
        self._tmp = Path(tempfile.mkdtemp(prefix="ts-"))  # short, for the socket's path
        self.socket_file = self._tmp / ".ts.sock.9000"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(CALL_S)

    def __enter__(self) -> Worker:  # noqa: PYI034  (typing.Self needs Python 3.11)
        try:
            self._process = self._launch()
            until(self._connects, "the worker's socket", START_S, self._has_ended)
            self._load()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The worker's process."""
        if self._process is None:
            raise RuntimeError("the worker does not run")
        return self._process

    def log(self) -> str:
        """What the worker has printed."""
        return (self._tmp / "log").read_text(encoding="utf-8", errors="replace")

    def predict(
        self, requests: Sequence[Request], piece_bytes: int | None = None
    ) -> tuple[int, list[Answer]]:
        """Send one batch; gives back the batch's code and the answers in the order they came.

        Args:
            requests: of the batch.
            piece_bytes: how much to send at once; None for all.
        """
        message = frame(requests)
        step = piece_bytes or len(message)
        for start in range(0, len(message), step):
            self._connection.sendall(message[start : start + step])
        code, _, answers = read(self._read)
        return code, answers

    def hang_up(self) -> None:
        """Close the connection, as a frontend that goes away does."""
        self._connection.close()

    def close(self) -> None:
        """Kill the worker if it still runs, and clear its folder."""
        self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._tmp, ignore_errors=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        spec = importlib.util.find_spec("ts")
        if spec is None or spec.origin is None:
            raise RuntimeError("torchserve is not installed")
        ts = Path(spec.origin).parent
        command = [sys.executable, str(ts / "model_service_worker.py"), "--sock-type", "unix"]
        command += ["--sock-name", str(self.socket_file)]
        command += ["--metrics-config", str(ts / "configs" / "metrics.yaml")]
        # As WorkerLifeCycle.java has it: the model's folder first, then TorchServe's.
        path = f"{self._folder}{os.pathsep}{ts.parent}"
        with (self._tmp / "log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _has_ended(self) -> str | None:
        return f"it has ended:\n{self.log()}" if self.process.poll() is not None else None

    def _connects(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            self._connection.connect(str(self.socket_file))
            return True
        return False

    def _load(self) -> None:
        self._connection.sendall(
            b"L"
            + text(self._folder.name)
            + text(str(self._folder))
            + struct.pack("!i", self._batch_size)
            + text(f"{self._handler}.py")
            + struct.pack("!i", -1 if self._gpu is None else self._gpu)
            + text("")  # no envelope
            + struct.pack("!?", True)
        )
        code, message, _ = read(self._read)
        if code != OK:
            raise RuntimeError(f"{code} {message}\n{self.log()}")

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._connection.recv(length - len(data))
            if not piece:
                raise ConnectionError(f"the worker hung up:\n{self.log()}")
            data += piece
        return bytes(data)
