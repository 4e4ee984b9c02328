"""An archive's own settings and tuned ones, each on a real TorchServe, loaded in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from harness.clients import Sample
from harness.load import load_of
from harness.settings import OVERRIDES
from harness.torchserve import TorchServe
from micro_batch_handler.tools.checking.worker import content_type

__all__ = ["Served", "play"]

WARM_UP_S = 5.0


@dataclass
class Served:
    """One archive under load."""

    title: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers per second; the median of the rounds."""
        return median(sample.rate for sample in self.samples)

    @property
    def p99_ms(self) -> float:
        """The median of the rounds' p99."""
        return median(sample.p99_ms for sample in self.samples)


def play(
    archives: Mapping[str, Path],
    bodies: Sequence[Path],
    clients: int,
    rounds: int,
    seconds: float,
) -> list[Served]:
    """Load each archive in turn with so many clients, on a server of its own."""
    kind = content_type(bodies[0]) or "application/octet-stream"
    with ExitStack() as stack:
        load = stack.enter_context(load_of([body.read_bytes() for body in bodies], kind, clients))
        places = []
        for path in archives.values():
            server = stack.enter_context(TorchServe(OVERRIDES, shipped=True))
            places.append(_registered(server, path))
        found = [Served(title) for title in archives]
        for place in places:
            load.press(place, WARM_UP_S)
        for _ in range(rounds):
            for served, place in zip(found, places, strict=True):
                served.samples.append(load.press(place, seconds))
    return found


def _registered(server: TorchServe, archive: Path) -> str:
    """Where the model answers."""
    (server.model_store / archive.name).write_bytes(archive.read_bytes())
    flags: dict[str, Any] = {"url": archive.name, "initial_workers": 1, "synchronous": "true"}
    with server.rest() as client:
        client.register(**flags)
    return f"http://127.0.0.1:{server.ports.inference}/predictions/{archive.stem}"
