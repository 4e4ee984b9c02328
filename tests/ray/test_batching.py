"""How requests become batches on Ray Serve."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from micro_batch_handler.ray.batching import BatchQueue

NEVER_S = 3600
PATIENCE_S = 20


class Model:
    """Answers each batch when it is let go, and tells what has come."""

    def __init__(self):
        self.come = queue.Queue()
        self.let_go = threading.Semaphore(0)

    def answers(self, requests):
        self.come.put(list(requests))
        assert self.let_go.acquire(timeout=PATIENCE_S)
        if "bad" in requests:
            raise ValueError("a bad batch")
        return [f"{request}!" for request in requests]

    async def next_batch(self):
        return await asyncio.to_thread(self.come.get, timeout=PATIENCE_S)


@pytest.fixture
def model():
    return Model()


def test_a_full_batch_begins_at_once(model):
    """It does not wait for its delay, and each request gets its own answer."""

    async def story():
        batches = BatchQueue(model.answers, 2, NEVER_S, 4)
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "b")]
        assert await model.next_batch() == ["a", "b"]
        model.let_go.release()
        assert await asyncio.gather(*asked) == ["a!", "b!"]

    asyncio.run(story())


def test_what_is_not_full_waits_while_two_batches_are_under_way(model):
    """What comes meanwhile shares one batch, which begins as soon as one of the two ends."""

    async def story():
        batches = BatchQueue(model.answers, 4, 0, 4)
        asked = []
        for word in ("a", "b"):
            asked.append(asyncio.ensure_future(batches.answer(word)))
            assert await model.next_batch() == [word]
        asked += [asyncio.ensure_future(batches.answer(word)) for word in ("c", "d")]
        await asyncio.sleep(0)  # both have asked
        assert model.come.empty()
        model.let_go.release()
        assert await model.next_batch() == ["c", "d"]
        model.let_go.release(2)
        assert await asyncio.gather(*asked) == ["a!", "b!", "c!", "d!"]

    asyncio.run(story())


def test_no_more_batches_are_under_way_than_may_be(model):
    """Full ones wait, too, where the handler takes one batch at a time."""

    async def story():
        batches = BatchQueue(model.answers, 1, 0, 1)
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "b")]
        assert await model.next_batch() == ["a"]
        assert model.come.empty()
        model.let_go.release()
        assert await model.next_batch() == ["b"]
        model.let_go.release()
        assert await asyncio.gather(*asked) == ["a!", "b!"]

    asyncio.run(story())


def test_a_batch_that_fails_fails_alone(model):
    """Each of its requests gets the error, and the next batch is answered."""

    async def story():
        batches = BatchQueue(model.answers, 2, NEVER_S, 1)
        model.let_go.release(2)
        words = ("a", "bad", "c", "d")
        asked = [batches.answer(word) for word in words]
        first, second, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert (str(first), str(second), others) == ("a bad batch", "a bad batch", ["c!", "d!"])

    asyncio.run(story())


def test_a_request_whose_client_has_gone_costs_nothing(model):
    """It is left out of its batch, and the answers of the others stay in order."""

    async def story():
        batches = BatchQueue(model.answers, 3, NEVER_S, 1)
        model.let_go.release()
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "gone")]
        await asyncio.sleep(0)  # both have asked
        asked[1].cancel()
        await asyncio.sleep(0)  # it is cancelled
        assert await batches.answer("c") == "c!"
        assert await asked[0] == "a!"
        assert await model.next_batch() == ["a", "c"]

    asyncio.run(story())
