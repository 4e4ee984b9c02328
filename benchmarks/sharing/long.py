"""Thousands of batches: the memory and the files of members and host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import psutil

from benchmarks.sharing.part import HOSTED, Found, say, shared, table
from benchmarks.soak.run import SAMPLE_EVERY, slope_per_1000
from harness.crowd import crowd
from harness.rest import RestClient
from harness.sharing import memory_of_members, one_host
from harness.torchserve import TorchServe

__all__ = ["long"]

MEMBERS = 2
CLIENTS = 8
SLOPE_LIMIT_KB = 200.0
"""As in benchmarks/soak: growth of memory per 1,000 batches that counts as a leak."""

ENOUGH_BATCHES = 5_000
WARM = 300
"""Batches after which all connections are open."""

ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Else each thread may keep free memory of its own, which hides a leak for a while."""


class Watched:
    """The processes of a model, looked at every 100 batches."""

    def __init__(self, processes: Mapping[str, int], host: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._host = host
        self.rss_kb: dict[str, list[int]] = {name: [] for name in processes}
        self.files: dict[str, list[int]] = {name: [] for name in processes}
        self.pieces: list[int] = []

    def look(self) -> None:
        """Take one sample of each."""
        for name, process in self._processes.items():
            self.rss_kb[name].append(process.memory_info().rss // 1024)
            self.files[name].append(process.num_fds())
        self.pieces.append(memory_of_members(self._host))


def long(batches: int) -> Found:
    """So many batches of all members together."""
    settings = shared(MEMBERS, 4, micro_batch_size=2)
    with (
        TorchServe(environment=ONE_ARENA) as server,
        server.model(HOSTED / "counted.py", settings, initial_workers=MEMBERS) as model,
    ):
        host = one_host(model)
        names = {f"member {at}": pid for at, pid in enumerate(model.worker_pids(), 1)}
        watched = Watched({"host": host, **names}, host)
        seen: dict[int, int] = {}
        stop, lock = threading.Event(), threading.Lock()
        turn = _turn(model.name, batches, watched, seen, stop, lock)
        wrong = [each for each in crowd(server, CLIENTS, turn, stop=stop) if each]
    rows = []
    warm = WARM // SAMPLE_EVERY
    for name, rss_kb in watched.rss_kb.items():
        slope = slope_per_1000(rss_kb)
        files = watched.files[name]
        told = "" if slope is None else f"{slope:+.1f}"
        rows.append((name, f"{rss_kb[0]:,} -> {rss_kb[-1]:,}", told, f"{files[0]} -> {files[-1]}"))
        if slope is not None and slope > SLOPE_LIMIT_KB and sum(seen.values()) >= ENOUGH_BATCHES:
            wrong.append(f"{name}: memory grows by {slope:.0f} kB per 1,000 batches")
        if files[-1] > max(files[: warm + 1]):
            wrong.append(f"{name}: {files[-1]} open files, {max(files[: warm + 1])} at first")
    if set(watched.pieces) != {MEMBERS}:
        wrong.append(f"the host has mapped {set(watched.pieces)} pieces of memory")
    text = f"{sum(seen.values()):,} batches, {len(watched.pieces)} samples\n\n"
    head = ("", "memory (kB)", "slope over the second half (kB per 1,000 batches)", "open files")
    text += table(head, rows)
    figures = {"rss_kb": watched.rss_kb, "files": watched.files, "pieces": watched.pieces}
    return Found("long", text, figures, wrong)


def _turn(
    model: str,
    batches: int,
    watched: Watched,
    seen: dict[int, int],
    stop: threading.Event,
    lock: threading.Lock,
) -> Callable[[RestClient, int, int], str]:
    """One request; gives back what is wrong with its answer."""

    def turn(client: RestClient, who: int, at: int) -> str:
        number = 1000 * who + at % 1000
        answer = client.predict(model, json={"number": number})
        if not answer.ok:
            return f"{answer.status_code} {answer.text[:200]}"
        found, worker, batch = answer.json()
        with lock:
            seen[worker] = max(seen.get(worker, 0), batch)
            total = sum(seen.values())
            if total >= (len(watched.pieces) + 1) * SAMPLE_EVERY:
                watched.look()
                if total % 1000 < SAMPLE_EVERY:
                    say(f"long: {total:,} of {batches:,} batches")
            if total >= batches:
                stop.set()
        return "" if found == 2 * number else f"{found} where {2 * number} is due"

    return turn
