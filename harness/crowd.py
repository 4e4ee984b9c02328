"""Many clients at once, each in a thread of its own."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from harness.rest import RestClient
from harness.torchserve import TorchServe

__all__ = ["Turn", "crowd", "together"]

T = TypeVar("T")
Turn = Callable[[RestClient, int, int], T]
"""(the client's own connection, number of the client, number of its request) -> what is kept"""

GATHER_S = 60


def together(clients: int, work: Callable[[int], T]) -> list[T]:
    """Call `work(number)` in as many threads, which start at the same moment.

    Gives back the results by number. The first error is raised here, with how many failed.
    """
    gate = threading.Barrier(clients, timeout=GATHER_S)

    def client(number: int) -> T:
        gate.wait()
        return work(number)

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
        futures = [pool.submit(client, number) for number in range(clients)]
    failed = {number: error for number, f in enumerate(futures) if (error := f.exception())}
    for number, error in failed.items():
        raise AssertionError(
            f"{len(failed)} of {clients} clients failed; {number}: {error!r}"
        ) from error
    return [future.result() for future in futures]


def crowd(
    server: TorchServe,
    clients: int,
    turn: Turn[T],
    *,
    turns: float = math.inf,
    seconds: float = math.inf,
    stop: threading.Event | None = None,
) -> list[T]:
    """REST clients that each send one request after the other: so many, for so long, until `stop`.

    Gives back what `turn` kept, in order of clients and turns. Once `turn` raises for one client,
    the others stop too.
    """
    end = time.monotonic() + seconds
    stop = stop or threading.Event()

    def work(number: int) -> list[T]:
        kept: list[T] = []
        try:
            with server.rest() as client:
                while len(kept) < turns and time.monotonic() < end and not stop.is_set():
                    kept.append(turn(client, number, len(kept)))
        except BaseException:
            stop.set()
            raise
        return kept

    return [kept for mine in together(clients, work) for kept in mine]
