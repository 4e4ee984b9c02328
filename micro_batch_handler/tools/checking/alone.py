"""Each request asked alone: what its answer should be, and whether it is the same each time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from micro_batch_handler.tools.checking.answers import Answer, is_same
from micro_batch_handler.tools.checking.requests import (
    MOST_REQUESTS,
    request_of,
    samples_in_turn,
)
from micro_batch_handler.tools.checking.worker import WorkerLog, predict

__all__ = ["Alone", "CheckError", "Model"]

_BATCHES_SHARE = 0.75
"""The share of the time that is left for batches when no more requests are asked alone."""


class CheckError(Exception):
    """The check has failed; the message says why."""


class Model:
    """A loaded model, and the requests to send it.

    Args:
        service: TorchServe's.
        samples: files with the body of one request each, sent in turn.
        headers: names of headers to send.
        log: hears the root logger.
        until_s: the time on the clock after which no call should begin.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        service: Any,
        samples: Sequence[Path],
        headers: Sequence[str],
        log: WorkerLog,
        until_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.samples = samples_in_turn(samples)
        """One for each request."""
        self.headers = headers
        self.too_many = len(samples) > MOST_REQUESTS
        """Whether some samples are not sent."""
        self.log = log
        self._until_s = until_s
        self._clock = clock

    def ask(self, places: Sequence[int]) -> list[Answer]:
        """Send these requests in one batch; return an answer to each."""
        batch = [request_of(self.samples[at], at, self.headers) for at in places]
        return predict(self.service, batch, self.log)

    def left_s(self) -> float:
        """The time that is left."""
        return self._until_s - self._clock()

    def has_refused_settings(self) -> bool:
        """Whether the archive's package took the last call's settings for ones that cannot work."""
        kind = type(self.log.last_error)
        return kind.__name__ == "ConfigError" and kind.__module__.startswith("micro_batch_handler")


class Alone:
    """The answers that each request gets alone.

    As many requests are sent as the time allows, at least one; the model forgets the others.

    Raises:
        CheckError: a request has no good answer alone.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answers: list[Answer] = []
        """By the request's place."""
        self.unsteady: set[int] = set()
        """The places of requests whose answers are not the same each time."""
        self.left_out: Sequence[str] = ()
        """Headers that are not sent, since requests with a text of ours in them fail."""
        before_s = model.left_s()
        while len(self.answers) < len(model.samples) and self._has_time(before_s):
            self._ask_next()
        self.seconds = before_s - model.left_s()
        """How long all of them took."""
        self.unasked = len(model.samples) - len(self.answers)
        """The number of requests for which there was no time."""
        model.samples = model.samples[: len(self.answers)]

    def again(self, places: Sequence[int], times: int = 1) -> None:
        """Ask some again, to learn which answers are not the same each time."""
        for at in places:
            again = [self.model.ask([at])[0] for _ in range(times)]
            if not all(is_same(self.answers[at], answer) for answer in again):
                self.unsteady.add(at)

    def _has_time(self, at_first_s: float) -> bool:
        left_s, asked = self.model.left_s(), len(self.answers)
        # The first call is often slow, and only two requests can be in each other's way.
        return not asked or left_s > (0 if asked == 1 else _BATCHES_SHARE * at_first_s)

    def _ask_next(self) -> None:
        at, model = len(self.answers), self.model
        (answer,) = model.ask([at])
        if answer.problem and model.headers:
            headers, model.headers = model.headers, ()
            (answer,) = model.ask([at])
            if not answer.problem:
                # All once more, so that all are asked alike.
                self.left_out = headers
                self.answers.clear()
                return
        if answer.problem:
            several = len(set(model.samples)) > 1
            name = f"{model.samples[at].name}: " if several else ""
            raise CheckError(name + answer.problem)
        self.answers.append(answer)
