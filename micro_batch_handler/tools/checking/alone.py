"""Each request asked alone: what its answer should be, and whether it is the same each time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from micro_batch_handler.tools.checking.answers import Reply, failure, is_same, parse_response
from micro_batch_handler.tools.checking.requests import Requests
from micro_batch_handler.tools.checking.worker import LoggedErrors

__all__ = ["Alone", "Asked", "CheckError"]

_BATCHES_SHARE = 0.75
"""The share of the time that is left for batches when no more requests are asked alone."""


class CheckError(Exception):
    """The check has failed; the message says why."""


class Asked:
    """A loaded model, and the requests to send it.

    Args:
        service: TorchServe's.
        requests: the requests.
        errors: the handler that hears what TorchServe logs.
        until_s: the time on the monotonic clock after which no call should begin.
    """

    def __init__(
        self, service: Any, requests: Requests, errors: LoggedErrors, until_s: float
    ) -> None:
        self.service = service
        self.requests = requests
        self.errors = errors
        self._until_s = until_s

    def ask(self, places: Sequence[int]) -> list[Reply]:
        """Send these requests in one batch; return a reply for each."""
        self.errors.last = None
        batch = [self.requests.made(at) for at in places]
        answers = parse_response(self.service.predict(batch))
        return [Reply(answer, failure(answer, self.errors.last)) for answer in answers]

    def left_s(self) -> float:
        """The time that is left."""
        return self._until_s - time.monotonic()


class Alone:
    """The replies that each request gets alone.

    As many requests are sent as the time allows, at least one. The others are dropped from
    `asked.requests`.

    Raises:
        CheckError: a request has no good answer alone.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.replies: list[Reply] = []
        """By the request's place."""
        self.unsteady: set[int] = set()
        """The places of requests whose answers are not the same each time."""
        self.left_out: Sequence[str] = ()
        """Headers that are not sent, since requests with a text of ours in them fail."""
        before_s = asked.left_s()
        while len(self.replies) < len(asked.requests) and self._has_time(before_s):
            self._ask_next()
        self.seconds = before_s - asked.left_s()
        """How long all of them took."""
        self.unasked = len(asked.requests) - len(self.replies)
        """The number of requests for which there was no time."""
        asked.requests = asked.requests.first(len(self.replies))

    def again(self, places: Sequence[int], times: int = 1) -> None:
        """Ask some again, to learn which answers are not the same each time."""
        for at in places:
            again = [self.asked.ask([at])[0] for _ in range(times)]
            if not all(is_same(self.replies[at], reply) for reply in again):
                self.unsteady.add(at)

    def _has_time(self, at_first_s: float) -> bool:
        left_s, asked = self.asked.left_s(), len(self.replies)
        # The first call is often slow, and only two requests can be in each other's way.
        return not asked or left_s > (0 if asked == 1 else _BATCHES_SHARE * at_first_s)

    def _ask_next(self) -> None:
        at, requests = len(self.replies), self.asked.requests
        (reply,) = self.asked.ask([at])
        if reply.problem and requests.names:
            self.asked.requests = requests.without_headers()
            (reply,) = self.asked.ask([at])
            if not reply.problem:
                # All once more, so that all are asked alike.
                self.left_out = requests.names
                self.replies.clear()
                return
        if reply.problem:
            several = len(set(requests.samples)) > 1
            name = f"{requests.samples[at].name}: " if several else ""
            raise CheckError(name + reply.problem)
        self.replies.append(reply)
