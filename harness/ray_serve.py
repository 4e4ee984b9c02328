"""Archives on Ray Serve: `micro-batch-handler ray`, run as its users run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from harness.processes import free_ports
from harness.rest import RestClient
from harness.settings import ROOT
from harness.wait import until

__all__ = ["RayServe"]

STARTING_S = 240
ENDING_S = 30


class RayServe:
    """A Ray of its own with one application, in a `with` statement.

    Args:
        archives: that are served.
        arguments: more of the command.
        environment: more variables of the process.
    """

    def __init__(
        self,
        archives: Sequence[Path],
        *arguments: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.ports: Any = free_ports()
        self._archives = archives
        self._arguments = arguments
        self._environment = dict(environment or {})

    def __enter__(self) -> RayServe:  # noqa: PYI034  (typing.Self needs Python 3.11)
        # Sockets have short paths.
        self.folder = Path(tempfile.mkdtemp(prefix="mbh-ray-", dir="/tmp"))
        self._log = (self.folder / "log").open("w+", encoding="utf-8")
        command = [sys.executable, "-m", "micro_batch_handler", "ray", *map(str, self._archives)]
        command += ["--port", str(self.ports.inference), "--grpc-port"]
        command += [str(self.ports.grpc_inference), "--metrics-port", str(self.ports.metrics)]
        environment = {
            **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
            "RAY_TMPDIR": str(self.folder),
            "TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            **self._environment,
        }
        self.process = subprocess.Popen(
            [*command, *self._arguments],
            cwd=self.folder,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until(
                lambda: "serving on http" in self.log(),
                "Ray Serve",
                STARTING_S,
                refused=lambda: "" if self.process.poll() is None else self.log()[-3000:],
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        started = []
        with suppress(psutil.NoSuchProcess):
            started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(ENDING_S)
        self.process.kill()
        self.process.wait()
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(started, ENDING_S)
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rest(self) -> RestClient:
        """A client, for one thread."""
        return RestClient(self.ports)

    def log(self) -> str:
        """What the command and its replicas have written."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, text: str, timeout_s: float = 30) -> None:
        """Wait until the log holds `text`."""
        until(lambda: text in self.log(), f"{text!r} in the log", timeout_s)
