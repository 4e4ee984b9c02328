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
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.throughput import client

__all__ = ["Load", "Sample", "generator", "load_of"]

SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_S = 60


@dataclass(frozen=True)
class Sample:
    """What clients saw in one round."""

    requests: int
    """Answered, with whatever status."""
    seconds: float
    refused: int
    """Answered with a status of 400 or above."""
    lost: int
    """Connections that broke, requests without an answer in a minute."""
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return (self.requests - self.refused) / self.seconds

    def figures(self) -> dict[str, float]:
        """For a JSON file."""
        return {**asdict(self), "rate": round(self.rate, 2)}


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
            return Sample(**client.press(url, bodies, self.content_type, self.clients, seconds))
        # wrk knows whole seconds only.
        command = [wrk, "-t1", f"-c{self.clients}", f"-d{max(1, round(seconds))}s"]
        command += [f"--timeout={TIMEOUT_S}s", f"--script={SCRIPT}", url, "--", self.content_type]
        command += map(str, self.bodies)
        told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return Sample(**json.loads(told.stdout.splitlines()[-1]))


@contextmanager
def load_of(bodies: Sequence[bytes], content_type: str, clients: int) -> Iterator[Load]:
    """A load with these bodies, in files while the `with` statement runs."""
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        paths = [Path(folder, str(number)) for number in range(len(bodies))]
        for path, body in zip(paths, bodies, strict=True):
            path.write_bytes(body)
        yield Load(paths, content_type, clients)


def generator() -> str:
    """Which program loads the servers, for the report."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "Python (benchmarks/throughput/client.py), since wrk is not installed"
    # It prints its version together with its usage, and ends with 1.
    told = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)  # noqa: S603
    return " ".join((told.stdout + told.stderr).split()[:2])
