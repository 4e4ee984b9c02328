"""A load of coded images, some of them bad, in which every answer is checked."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any

import requests

from harness.crowd import crowd
from harness.images import Kind, jpeg
from harness.rest import TIMEOUT_S, RestClient
from harness.torchserve import TorchServe
from harness.verdicts import NO_ANSWER, Result, judge
from harness.wait import until

__all__ = ["ImageLoad", "config"]


def config(
    *,
    hang_s: float | None,
    micro_batch_size: int | dict[str, int],
    stage_timeout_s: float = 2.0,
    response_timeout_s: int = 10,
    batch_size: int = 32,
) -> dict[str, Any]:
    """The model-config.yaml of a handler of coded_stages.py.

    Args:
        hang_s: how long preprocess takes for an image that hangs; None for ever.
        micro_batch_size: one number for TorchServe's own micro-batching, which knows no other.
        stage_timeout_s: unknown to TorchServe's own.
        response_timeout_s: after which TorchServe ends a worker that does not answer.
        batch_size: the most requests of a batch.
    """
    return {
        "batchSize": batch_size,
        "maxBatchDelay": 10,
        "responseTimeout": response_timeout_s,
        "handler": {"hang_s": hang_s},
        "micro_batching": {
            "micro_batch_size": micro_batch_size,
            "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 1},
            "stage_timeout": stage_timeout_s,
        },
    }


class ImageLoad:
    """Which image each client sends next; `turn` is for `harness.crowd.crowd`.

    Args:
        model: its name.
        corrupt: the share of corrupt images.
        raising: the share of images for which inference raises.
        hang_every_s: between two images that hang, of all clients; None for none.
        seed: of the clients' random numbers.
        timeout_s: after which a client gives up.
    """

    def __init__(
        self,
        model: str,
        *,
        corrupt: float = 0.02,
        raising: float = 0.01,
        hang_every_s: float | None = None,
        seed: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._model = model
        self._weights = [1 - corrupt - raising, corrupt, raising]
        self._hang_every_s = hang_every_s
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._numbers = count()
        self._next_hang_s = time.monotonic()
        self._timeout_s = timeout_s
        self.results: list[Result] = []
        """Of all turns so far."""

    def turn(self, client: RestClient, _number: int, _turn: int) -> Result:
        """Send one image and judge the answer."""
        number, kind = self._next()
        result = self.ask(client, number, kind)
        self.results.append(result)
        return result

    def ask(self, client: RestClient, number: int, kind: Kind = Kind.GOOD) -> Result:
        """Send this image and judge the answer."""
        image = jpeg(number, kind)
        started_s = time.monotonic()
        try:
            response = client.predict(
                self._model,
                data=image,
                headers={"content-type": "image/jpeg"},
                timeout=self._timeout_s,
            )
            status, text = response.status_code, response.text
        except requests.RequestException as error:
            status, text = NO_ANSWER, repr(error)
        latency_s = time.monotonic() - started_s
        outcome = judge(number, kind, status, text)
        return Result(kind, outcome, status, "" if outcome == "right" else text, latency_s)

    @contextmanager
    def running(self, server: TorchServe, clients: int) -> Iterator[None]:
        """So many clients load the server while the body runs, and end when it ends."""
        stop = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="load") as pool:
            clients_of = pool.submit(crowd, server, clients, self.turn, stop=stop)
            try:
                yield
            finally:
                stop.set()
            clients_of.result()

    def wait_for(self, more: int, kind: Kind = Kind.GOOD, timeout: float = 60) -> None:
        """Wait until so many more images of this kind are answered right."""
        start = len(self.results)

        def enough() -> bool:
            found = self.results[start:]
            return sum(each.kind is kind and each.outcome == "right" for each in found) >= more

        until(enough, f"{more} more right answers to {kind.name.lower()} images", timeout)

    def _next(self) -> tuple[int, Kind]:
        with self._lock:
            number = next(self._numbers)
            now_s = time.monotonic()
            if self._hang_every_s is not None and now_s >= self._next_hang_s:
                self._next_hang_s = now_s + self._hang_every_s
                return number, Kind.HANGING
            kinds: Sequence[Kind] = (Kind.GOOD, Kind.CORRUPT, Kind.RAISING)
            return number, self._random.choices(kinds, self._weights)[0]
