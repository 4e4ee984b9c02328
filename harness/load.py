"""Clients that send as fast as they are answered, and measure: wrk, or Python where it is missing.

https://github.com/wg/wrk
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.clients import Sample, press
from harness.torchserve import TorchServe

__all__ = ["Load", "Served", "generator", "load_of"]

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Load:
    """What clients send; its bodies lie in files."""

    bodies: Sequence[Path]
    content_type: str
    clients: int

    def press(self, url: str, seconds: float) -> Sample:
        """Load this address for so long.

        Raises:
            subprocess.CalledProcessError: wrk cannot run.
        """
        wrk = shutil.which("wrk")
        if wrk is None:
            bodies = [path.read_bytes() for path in self.bodies]
            return press(url, bodies, self.content_type, self.clients, seconds)
        # wrk knows whole seconds only.
        command = [wrk, "-t1", f"-c{self.clients}", f"-d{max(1, round(seconds))}s"]
        command += [f"--timeout={TIMEOUT_S}s", f"--script={SCRIPT}", url, "--", self.content_type]
        command += map(str, self.bodies)
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        return Sample(**json.loads(told.stdout.splitlines()[-1]))


@contextmanager
def load_of(bodies: Sequence[bytes], content_type: str, clients: int) -> Iterator[Load]:
    """A load with these bodies, in files while the `with` statement runs."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        paths = [Path(folder, str(number)) for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        yield Load(paths, content_type, clients)


@dataclass(frozen=True)
class Served:
    """A model on a server, and the load for it."""

    server: TorchServe
    model: str
    load: Load

    def press(self, seconds: float) -> Sample:
        """Load it for so long, then wait until its queue is empty."""
        place = f"http://127.0.0.1:{self.server.ports.inference}/predictions/{self.model}"
        sample = self.load.press(place, seconds)
        # When wrk ends, its last requests are still in TorchServe's queue, and would be computed
        # during the next sample. This request is answered after them.
        with self.server.rest() as client:
            client.predict(
                self.model,
                data=self.load.bodies[0].read_bytes(),
                headers={"content-type": self.load.content_type},
            )
        return sample


def generator() -> str:
    """Which program loads the servers, for the report."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "Python (harness/clients.py), since wrk is not installed"
    # It prints its version together with its usage, and ends with 1.
    told = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    return " ".join((told.stdout + told.stderr).split()[:2])
