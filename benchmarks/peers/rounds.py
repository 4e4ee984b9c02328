"""A workload's servers in turn, for each number of clients, so that drift affects all alike."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.faults import BAD, Faults, with_bad_requests
from benchmarks.peers.meter import Cost, metered
from benchmarks.peers.peer import Settings
from benchmarks.peers.servers import PeerServer, Running, Server, TorchServeServer
from benchmarks.throughput.search import Found, best, spread
from benchmarks.throughput.servers import expected_answers
from benchmarks.throughput.summary import settings_of
from benchmarks.throughput.workload import Workload
from harness.clients import Sample
from harness.load import load_of

__all__ = ["Entry", "Lengths", "play"]

SEARCH_CLIENTS = 64
FAULTS_CLIENTS = 32


@dataclass(frozen=True)
class Lengths:
    """How long and how often."""

    rounds: int
    clients: Sequence[int]
    """Numbers of clients."""
    seconds: float
    """Of a sample."""
    warm_up_s: float
    """Of load on each server before the first round."""
    settle_s: float
    """Of load before each sample, which is thrown away."""
    probe_s: float
    """Of a probe in a search."""
    candidates: int | None
    """The most settings that a search tries; None for all."""
    faults_s: float
    """Of load with bad requests; 0 for none."""


@dataclass
class Entry:
    """A server in its settings, and what was measured."""

    server: Server
    found: Found
    samples: dict[int, list[tuple[Sample, Cost]]] = field(default_factory=dict)
    """By the number of clients, one for each round."""
    faults: Faults | None = None

    def figures(self) -> dict[str, Any]:
        """For a JSON file; `benchmarks.peers.measured.Measured` reads them."""
        candidate = self.found.candidate
        if isinstance(self.server, TorchServeServer):
            words = settings_of(candidate)
        else:
            words = ", ".join(f"{key} {value}" for key, value in candidate.items())
        return {
            "key": self.server.key,
            "server": self.server.title,
            "settings": candidate,
            "settings in words": words,
            "search": self.found.record,
            "samples": {
                str(clients): [{**sample.figures(), **vars(cost)} for sample, cost in each]
                for clients, each in self.samples.items()
            },
            "faults": None if self.faults is None else vars(self.faults),
        }


def play(workload: Workload, servers: Sequence[Server], lengths: Lengths) -> list[Entry]:
    """All rounds of a workload; one entry for each server that starts.

    A server that does not start or answers wrong is left out, and said to be.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="device-"))
        device = Path(folder, "accelerator")
        places: list[tuple[Entry, Running]] = []
        for server in servers:
            try:
                entry = _search(workload, server, device, lengths)
                running = stack.enter_context(
                    server.running(workload, entry.found.candidate, device)
                )
            except Exception as error:  # noqa: PERF203  (each its own)
                _tell(f"{workload.name}: {server.title} is left out: {error}")
            else:
                _tell(f"{workload.name}: {server.title} runs and answers right")
                places.append((entry, running))
        for _, running in places:
            with running.turn():
                _press(running, SEARCH_CLIENTS, lengths.warm_up_s)
        for number in range(lengths.rounds):
            for clients in lengths.clients:
                for entry, running in places:
                    with running.turn():
                        _press(running, clients, lengths.settle_s)
                        with metered(running.pids) as cost:
                            sample = _press(running, clients, lengths.seconds)
                    entry.samples.setdefault(clients, []).append((sample, cost))
                    _tell(
                        f"{workload.name}: round {number + 1} of {lengths.rounds}, "
                        f"{clients} clients, {entry.server.title}: {sample.rate:,.0f}/s, "
                        f"p50 {sample.p50_ms:.2f} ms, {sample.refused + sample.lost} failed"
                    )
        if lengths.faults_s:
            _add_faults(workload, places, lengths.faults_s)
    return [entry for entry, _ in places]


def _add_faults(
    workload: Workload, places: Sequence[tuple[Entry, Running]], seconds: float
) -> None:
    expected = expected_answers(workload)
    for entry, running in places:
        bad = BAD[workload.stages]
        if isinstance(entry.server, PeerServer):
            bad = entry.server.peer.wrap(workload, bad)
        with running.turn():
            entry.faults = with_bad_requests(running, expected, bad, FAULTS_CLIENTS, seconds)
        _tell(
            f"{workload.name}: {entry.server.title}: {entry.faults.good_failed} of "
            f"{entry.faults.good} good requests failed beside bad ones"
        )


def _search(workload: Workload, server: Server, device: Path, lengths: Lengths) -> Entry:
    """The server in its best settings, by short probes, on a server of their own each."""
    candidates = spread(server.settings(workload), lengths.candidates)

    def probe(candidate: Settings, seconds: float) -> float:
        rate = 0.0
        try:
            with server.running(workload, candidate, device) as running, running.turn():
                _press(running, SEARCH_CLIENTS, lengths.probe_s)
                rate = _press(running, SEARCH_CLIENTS, seconds).rate
        except Exception as error:  # settings that cannot work lose; if all do, the server will
            _tell(f"{workload.name}: {server.title}, {dict(candidate)}: {error}")
        _tell(f"{workload.name}: {server.title}, {dict(candidate)}: {rate:,.0f}/s")
        return rate

    return Entry(server, best(probe, candidates, lengths.probe_s))


def _press(running: Running, clients: int, seconds: float) -> Sample:
    with load_of(running.bodies, running.content_type, clients) as load:
        sample = load.press(running.url, seconds)
    # Clients have left requests behind, which the server works off for nobody: behind them comes
    # this one.
    running.ask(running.bodies[0])
    return sample


def _tell(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
