"""Each request asked alone: what its answer should be, and whether it is the same each time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from micro_batch_handler.tools.checking.answers import Reply, is_same
from micro_batch_handler.tools.checking.requests import Requests
from micro_batch_handler.tools.checking.worker import LoggedErrors, failure, parse_response

__all__ = ["Alone", "Asked", "NoAnswerError"]

_SHARE = 0.25
"""Of the time, when no more requests are asked alone: the others must be asked again, and cut."""


class NoAnswerError(Exception):
    """A request has no good answer alone, and the check has failed."""


class Asked:
    """A loaded model, and what to ask it.

    Args:
        service: TorchServe's.
        requests: what to ask.
        errors: hears what TorchServe logs.
        until_s: on the monotonic clock, when nothing more should be begun.
    """

    def __init__(
        self, service: Any, requests: Requests, errors: LoggedErrors, until_s: float
    ) -> None:
        self.service = service
        self.requests = requests
        self.errors = errors
        self._until_s = until_s

    def ask(self, rows: Sequence[int]) -> list[Reply]:
        """What comes for these requests, in one batch."""
        self.errors.last = None
        batch = [self.requests.made(at) for at in rows]
        answers = parse_response(self.service.predict(batch))
        return [Reply(answer, failure(answer, self.errors.last)) for answer in answers]

    def left_s(self) -> float:
        """The time that is left."""
        return self._until_s - time.monotonic()


class Alone:
    """What each request gets alone.

    Raises:
        NoAnswerError: one has no good answer; it says why.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.replies: list[Reply] = []
        """By the request's place."""
        self.unsteady: set[int] = set()
        """The places of those whose answers are not the same each time."""
        self.left_out: Sequence[str] = ()
        """Headers that are not sent, since requests with a text of ours in them fail."""
        before_s = asked.left_s()
        while len(self.replies) < len(asked.requests) and self._has_time(before_s):
            self._ask_next()
        self.seconds = before_s - asked.left_s()
        """How long all of them took."""
        self.unasked = len(asked.requests) - len(self.replies)
        """For how many there was no time; the model is no more asked about them."""
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
        return not asked or left_s > (0 if asked == 1 else (1 - _SHARE) * at_first_s)

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
            raise NoAnswerError(name + reply.problem)
        self.replies.append(reply)
