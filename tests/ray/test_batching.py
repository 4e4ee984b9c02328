"""How requests become batches on Ray Serve."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

from micro_batch_handler.ray import replica
from micro_batch_handler.ray.answers import ServerError
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


class Limit:
    """A timer that never rings."""

    cancelled = False

    def cancel(self):
        self.cancelled = True


@pytest.fixture
def model():
    return Model()


def test_a_full_batch_begins_at_once(model):
    """It does not wait for its delay, and each request gets its own answer."""

    async def story():
        batches = BatchQueue(model.answers, 2, NEVER_S, 4, NEVER_S)
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "b")]
        assert await model.next_batch() == ["a", "b"]
        model.let_go.release()
        assert await asyncio.gather(*asked) == ["a!", "b!"]

    asyncio.run(story())


def test_what_is_not_full_waits_while_two_batches_are_under_way(model):
    """What comes meanwhile shares one batch, which begins as soon as one of the two ends."""

    async def story():
        batches = BatchQueue(model.answers, 4, 0, 4, NEVER_S)
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
        batches = BatchQueue(model.answers, 1, 0, 1, NEVER_S)
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
        batches = BatchQueue(model.answers, 2, NEVER_S, 1, NEVER_S)
        model.let_go.release(2)
        words = ("a", "bad", "c", "d")
        asked = [batches.answer(word) for word in words]
        first, second, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert (str(first), str(second), others) == ("a bad batch", "a bad batch", ["c!", "d!"])

    asyncio.run(story())


def test_a_request_whose_client_has_gone_costs_nothing(model):
    """It is left out of its batch, and the answers of the others stay in order."""

    async def story():
        batches = BatchQueue(model.answers, 3, NEVER_S, 1, NEVER_S)
        model.let_go.release()
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "gone")]
        await asyncio.sleep(0)  # both have asked
        asked[1].cancel()
        await asyncio.sleep(0)  # it is cancelled
        assert await batches.answer("c") == "c!"
        assert await asked[0] == "a!"
        assert await model.next_batch() == ["a", "c"]

    asyncio.run(story())


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_batches_that_take_too_long_are_answered_as_torchserve_does(model, in_flight):
    """Nobody waits for ever: who comes or waits meanwhile is told to ask again."""

    async def story():
        batches = BatchQueue(model.answers, 2, NEVER_S, in_flight, 0.01)
        died = ServerError(500, "InternalServerException", "Worker died.")
        asked = [batches.answer(word) for word in (*range(2 * in_flight), "waits")]
        *answers, waited = await asyncio.gather(*asked)
        assert (answers, waited.status) == ([died] * 2 * in_flight, 503)
        assert (await batches.answer("new")).status == 503
        model.let_go.release(in_flight)  # the threads that hang

    asyncio.run(story())


def test_a_batch_may_wait_for_those_before_it(monkeypatch):
    """The time is counted from when the batch before has ended, since batches share lanes."""

    async def story():
        loop, limits = asyncio.get_running_loop(), []
        monkeypatch.setattr(
            loop, "call_later", lambda _s, give_up: limits.append(Limit()) or limits[-1]
        )
        model = Model()
        batches = BatchQueue(model.answers, 1, NEVER_S, 2, 1)
        asked = [asyncio.ensure_future(batches.answer(word)) for word in ("a", "b")]
        for _ in asked:
            await asyncio.to_thread(model.come.get)
        model.let_go.release()
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [each.cancelled for each in limits] == [True, False]
        model.let_go.release()
        assert await asyncio.gather(*asked) == ["a!", "b!"]
        assert [each.cancelled for each in limits] == [True, True]

    asyncio.run(story())


def test_a_replica_whose_batch_takes_too_long_says_that_it_is_ill(monkeypatch):
    """Ray asks for its health, and puts a fresh one in its place."""

    class Hanging(Model):
        why_unhealthy, in_flight, sends_parts = "", 1, False

    hanging = Hanging()
    monkeypatch.setattr(replica, "ServedModel", lambda *_, **__: hanging)
    archive = SimpleNamespace(batch_size=1, batch_delay_s=0, model_yaml={"responseTimeout": 0.01})

    async def story():
        served = replica.ModelReplica(archive)
        served.check_health()
        assert (await served.answer("a")).status == 500
        with pytest.raises(RuntimeError, match="for responseTimeout"):
            served.check_health()
        hanging.let_go.release()

    asyncio.run(story())
