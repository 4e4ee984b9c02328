"""The good requests that fail because of bad ones; clients check every answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from benchmarks.peers.servers import Running
from benchmarks.throughput.servers import same

__all__ = ["BAD", "Faults", "with_bad_requests"]

SHARE = 0.02
"""Of all requests."""

BAD: dict[str, bytes] = {
    "vector": b"[1.5, 2.5, 3.5]",
    "image": b"\xff\xd8 no image",
    "text": b'{"text": 5}',
}
"""By the workload's stages: well-formed for the server, and no use to the model."""

PATIENCE_S = 30


@dataclass(frozen=True)
class Faults:
    """What became of the requests."""

    good: int
    good_failed: int
    """With an error status, a wrong answer or none."""
    bad: int
    bad_told: int
    """Answered 4xx, which says that the request was at fault."""


def with_bad_requests(
    running: Running,
    expected: Sequence[Any],
    bad: bytes,
    clients: int,
    seconds: float,
    share: float = SHARE,
) -> Faults:
    """So many clients send good requests, and sometimes a bad one.

    Args:
        running: the server.
        expected: its answers to `running.bodies`.
        bad: the body of a bad request, as clients send it.
        clients: each with a connection of its own.
        seconds: for how long.
        share: of bad requests, of all.
    """
    end_s = time.monotonic() + seconds
    counted = threading.Lock()
    counts = dict.fromkeys(("good", "good_failed", "bad", "bad_told"), 0)

    def client(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - the same in every run
        headers = {"content-type": running.content_type}
        with requests.Session() as session:
            session.trust_env = False
            while time.monotonic() < end_s:
                is_bad = chance.random() < share
                index = chance.randrange(len(running.bodies))
                body = bad if is_bad else running.bodies[index]
                try:
                    answer = session.post(
                        running.url, data=body, headers=headers, timeout=PATIENCE_S
                    )
                    status = answer.status_code
                    right = answer.ok and same(running.unwrap(answer.json()), expected[index])
                except (requests.RequestException, ValueError):
                    status, right = 0, False
                with counted:
                    counts["bad" if is_bad else "good"] += 1
                    counts["good_failed"] += not is_bad and not right
                    counts["bad_told"] += is_bad and 400 <= status < 500  # noqa: PLR2004

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return Faults(**counts)
