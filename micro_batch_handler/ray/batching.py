"""Requests are collected into batches by batchSize and maxBatchDelay.

Not by `serve.batch`: that begins a batch after its delay also where several are under way. Such a
batch only waits in the handler, and takes a call of its own with whatever few requests had come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import compress
from textwrap import indent
from typing import NamedTuple

from micro_batch_handler.pipeline.watch import stacks
from micro_batch_handler.ray.answers import Part, ServerError
from micro_batch_handler.ray.wire_request import WireRequest

__all__ = ["BatchQueue"]

logger = logging.getLogger(__name__)

DIED = ServerError(500, "InternalServerException", "Worker died.")
"""What TorchServe's frontend answers for a worker that it has ended."""

NO_WORKER = ServerError(
    503, "ServiceUnavailableException", "A batch hangs, and the replica is being replaced"
)

ENOUGH = 2
"""Batches under way that leave no stage without work: one is computed, one is prepared."""


class _Waiting(NamedTuple):
    request: WireRequest
    answered: asyncio.Future[Part]
    due_s: float
    """When it has waited for long enough, on the loop's clock."""


class BatchQueue:
    """Answers requests in batches; all of it runs in one event loop.

    A batch begins when it is full, or when its first request has waited for long enough and fewer
    than two batches are under way. If none of those under way ends for too long, they are answered
    as TorchServe's frontend answers them, and all other requests are refused. Their threads are
    left hanging, for whoever ends the process.

    Args:
        answers: gives the answers to a batch, in the order of its requests; called in threads.
        size: the most requests of a batch.
        delay_s: how long the first request of a batch waits for others.
        in_flight: the most batches under way.
        response_timeout_s: how long no batch may end while some are under way. They share lanes,
            so each may have to wait for those before it.
    """

    def __init__(
        self,
        answers: Callable[[Sequence[WireRequest]], list[Part]],
        size: int,
        delay_s: float,
        in_flight: int,
        response_timeout_s: float,
    ) -> None:
        self._answers = answers
        self._size = size
        self._delay_s = delay_s
        self._in_flight = in_flight
        self._response_timeout_s = response_timeout_s
        self.hangs = False
        """Whether no batch has ended for too long."""
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="mbh-batch")
        self._waiting: deque[_Waiting] = deque()
        self._under_way: list[Sequence[_Waiting]] = []
        self._limit: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, request: WireRequest) -> Part:
        """The answer to one request, which shares a batch with others.

        Raises:
            Exception: whatever `answers` raises for the batch.
        """
        if self.hangs:
            return NO_WORKER
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Part] = loop.create_future()
        self._waiting.append(_Waiting(request, answered, loop.time() + self._delay_s))
        self._begin()
        return await answered

    def _begin(self) -> None:
        """Begin the batches that may begin now."""
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._under_way) < self._in_flight:
            if len(self._waiting) < self._size:
                if len(self._under_way) >= ENOUGH:
                    return  # the end of one looks again
                due_s = self._waiting[0].due_s
                if due_s > loop.time():
                    if self._timer is None:
                        self._timer = loop.call_at(due_s, self._look_again)
                    return
            taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            # A client that has gone cancels its request.
            batch = [each for each in taken if not each.answered.done()]
            if not batch:
                continue
            self._under_way.append(batch)
            if self._limit is None:
                self._await_end()
            requests = [each.request for each in batch]
            answered = loop.run_in_executor(self._pool, self._answers, requests)
            answered.add_done_callback(partial(self._end, batch))

    def _look_again(self) -> None:
        self._timer = None
        self._begin()

    def _await_end(self) -> None:
        """Give up if no batch ends in time from now on."""
        if self._limit is not None:
            self._limit.cancel()
        loop = asyncio.get_running_loop()
        within_s = self._response_timeout_s
        self._limit = loop.call_later(within_s, self._give_up) if self._under_way else None

    def _give_up(self) -> None:
        self.hangs = True
        told = indent(stacks(), "  ")
        logger.error(
            "no batch has ended for %s s. What the lanes do:\n%s", self._response_timeout_s, told
        )
        for batch in self._under_way:
            _answer(batch, DIED)
        _answer(self._waiting, NO_WORKER)
        self._waiting.clear()

    def _end(self, batch: Sequence[_Waiting], done: asyncio.Future[list[Part]]) -> None:
        self._under_way.remove(batch)
        self._await_end()
        waits = [not each.answered.done() for each in batch]
        error = done.exception()
        if error is not None:
            for each in compress(batch, waits):
                each.answered.set_exception(error)
        else:
            for each, answer in compress(zip(batch, done.result(), strict=True), waits):
                each.answered.set_result(answer)
        self._begin()


def _answer(requests: Iterable[_Waiting], answer: Part) -> None:
    """Give those the answer that still wait for one."""
    for each in requests:
        if not each.answered.done():
            each.answered.set_result(answer)
