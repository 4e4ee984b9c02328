"""The context that TorchServe hands out, kept under any name: each call reads its own requests."""

from __future__ import annotations

import copy
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ts.context import Context
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchHandler, MicroBatchMixin
from micro_batch_handler.pipeline.loading_lane import LoadingLane
from micro_batch_handler.torchserve.brought import BroughtFunction
from micro_batch_handler.torchserve.views import routes_of
from tests.fakes import fake_context

SPLITS = [
    {"micro_batch_size": 2},
    {"micro_batch_size": {"preprocess": 1, "inference": 4, "postprocess": 2}},
    {"micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 3}},
    {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "postprocess": 2}},
    {"micro_batch_size": 8},
    {},
]
CLIENTS = 8


class Keeper:
    """A helper that was given the context when the model was loaded."""

    def __init__(self, context):
        self.kept = context

    def user(self, index):
        return self.kept.get_request_header(index, "user")


class Kept(BaseHandler):
    """Reads and sets everything through a context that it kept; fails for the user `bad`."""

    def initialize(self, context):
        self._context = context
        self._ctx = Keeper(context)
        self.kept_metrics = context.metrics

    def preprocess(self, data):
        users = [self._context.get_request_header(index, "user") for index in range(len(data))]
        assert users == [self._ctx.user(index) for index in range(len(data))]
        if "bad" in users:
            raise ValueError(users)
        return [(user, row["body"]) for user, row in zip(users, data, strict=True)]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        for index, (user, _) in enumerate(outputs):
            self._context.set_response_header(index, "x-user", user)
            self._context.set_response_status(201, "made", index)
            self.kept_metrics.add_counter("Seen", 1, index)
        ids = [self._context.request_ids[index] for index in range(len(outputs))]
        processors = self._context.request_processor
        assert len(processors) == len(outputs)
        return [[user, body, id_] for (user, body), id_ in zip(outputs, ids, strict=True)]


class FirstRow(Kept):
    """The same for one row at a time."""

    def preprocess(self, data):
        row = data[0]
        return [(self._context.get_request_header(0, "user"), row["body"])]


def loaded(kind, section, **more):
    """A handler of ours, loaded with TorchServe's context."""
    handler = type("H", (MicroBatchMixin, kind), more)()
    context = fake_context(0, model_yaml={"micro_batching": section})
    handler.initialize(context)
    return handler, context


def next_batch(context, users):
    """Put requests into the one context, as TorchServe does."""
    batch = fake_context(len(users), headers=[{"user": user} for user in users])
    context.request_ids = {index: f"id-{user}" for index, user in enumerate(users)}
    context.request_processor = batch.request_processor
    return [{"body": f"body of {user}"} for user in users]


def answers(handler, context, users):
    """What the users get, by name: answer, status and header."""
    found = handler.handle(next_batch(context, users), context)
    return {
        user: (answer, context.get_response_status(at)[0], context.get_response_headers(at))
        for at, (user, answer) in enumerate(zip(users, found, strict=True))
    }


def right(user):
    """What a user must get."""
    return [user, f"body of {user}", f"id-{user}"], 201, {"x-user": user}


@pytest.mark.parametrize("kind", [Kept, FirstRow])
@pytest.mark.parametrize("section", SPLITS)
def test_a_kept_context_is_the_calls_own(kind, section):
    """Headers, ids, statuses and metrics are those of the request, in batch after batch."""
    handler, context = loaded(kind, section)

    for batch in range(12):
        users = [f"{batch}-{client}" for client in range(CLIENTS - batch % 3)]
        found = answers(handler, context, users)
        assert {user: right(user) for user in users} == found

    handler.close()


@pytest.mark.parametrize("section", SPLITS)
def test_a_kept_context_is_the_calls_own_in_retries(section):
    """Beside a request that fails, the others read and set what is theirs."""
    handler, context = loaded(Kept, section)

    for batch in range(6):
        users = [f"{batch}-{client}" for client in range(CLIENTS)]
        users[batch] = "bad"
        found = answers(handler, context, users)
        assert found.pop("bad")[1] == 400
        assert {user: right(user) for user in users if user != "bad"} == found

    handler.close()


@pytest.mark.parametrize("section", SPLITS)
def test_metrics_that_were_kept_name_the_right_request(section):
    """An index given to them means the row of the call that gives it."""
    handler, context = loaded(Kept, section)
    users = [f"u{client}" for client in range(CLIENTS)]

    answers(handler, context, users)
    handler.close()

    counted = [emitted[2] for emitted in context.metrics.emitted if emitted[0] == "Seen"]
    assert sorted(counted) == list(range(CLIENTS))


def test_an_explanation_in_the_loading_lane_reads_its_own_request():
    """On Ray the lane that loaded the handler explains; among predictions, too."""

    class Explained(Kept):
        def explain_handle(self, data_preprocess, raw_data):
            return [self._context.get_request_header(0, "user")]

    lane = LoadingLane()
    handler, kept = lane.do(lambda: loaded(Explained, {}))
    routes_of(kept).several_batches = True
    context = copy.copy(kept)
    data = next_batch(context, ["a", "b", "c"])
    headers = [{"user": "a"}, {"user": "b", "explain": "True"}, {"user": "c"}]
    context.request_processor = fake_context(3, headers=headers).request_processor

    found = handler.handle(data, context)
    handler.close()
    lane.close()

    assert [found[0], found[1], found[2]] == [right("a")[0], "b", right("c")[0]]


def test_torchserves_own_metrics_are_kept_as_well(tmp_path):
    """With the real cache, which names requests by their ids, a kept index means the call's row."""
    config = tmp_path / "metrics.yaml"
    config.write_text(
        "dimensions: []\nts_metrics: {}\nmodel_metrics:\n  counter: []\n", encoding="utf-8"
    )
    seen = []

    class Cache(MetricsCacheYamlImpl):
        def _get_req(self, idx):
            seen.append(super()._get_req(idx))
            return seen[-1]

    handler = type("H", (MicroBatchMixin, Kept), {})()
    context = fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": 2}})
    context.metrics = Cache(str(config))
    context.metrics.initialize_cache()
    context.metrics.model_name = "model"
    handler.initialize(context)
    users = [f"u{client}" for client in range(CLIENTS)]
    rows = next_batch(context, users)
    context.metrics.request_ids = context.request_ids

    handler.handle(rows, context)
    handler.close()

    assert {f"id-{user}" for user in users} <= set(seen)


def test_a_subclass_of_ours_may_keep_it_too():
    """Keeping the context counts in `class H(MicroBatchHandler)` as well."""

    class Handler(MicroBatchHandler):
        initialize = Kept.initialize
        preprocess = Kept.preprocess
        postprocess = Kept.postprocess
        inference = Kept.inference

    handler = Handler()
    context = fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": 2}})
    handler.initialize(context)

    assert {u: right(u) for u in "abcdefgh"} == answers(handler, context, list("abcdefgh"))
    handler.close()


def test_a_function_may_keep_it_in_its_module():
    """`_service._context` of a module is the call's own while the function runs."""
    service = type("Service", (), {})()

    def handle(data, context):
        if data is None:
            service._context = context
            return None
        return [service._context.get_request_header(index, "user") for index in range(len(data))]

    handler = type("H", (BroughtFunction,), {"function": staticmethod(handle)})()
    context = fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": 3}})
    handler.initialize(context)

    found = handler.handle(next_batch(context, list("abcdefgh")), context)
    handler.close()

    assert list("abcdefgh") == [
        each.decode().strip('"') if isinstance(each, bytes) else each for each in found
    ]


def test_whoever_is_no_call_sees_the_batch():
    """TorchServe itself, before and after, reads and writes what belongs to all requests."""
    handler, context = loaded(Kept, {"micro_batch_size": 2})
    answers(handler, context, list("abcd"))

    assert ["a", "b", "c", "d"] == [context.get_request_header(i, "user") for i in range(4)]
    assert isinstance(context, Context)
    handler.close()


class InPool(BaseHandler):
    """Reads the kept context in threads of its own."""

    def initialize(self, context):
        self._context = context
        self.pool = ThreadPoolExecutor(2)

    def preprocess(self, data):
        def user(index):
            return self._context.get_request_header(index, "user")

        return list(self.pool.map(user, range(len(data))))

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return outputs


@pytest.mark.parametrize("section", SPLITS)
def test_threads_of_the_handlers_own_read_the_right_request(section):
    """Where it cannot be known which call a thread works for, the batch is run again whole."""
    handler, context = loaded(InPool, section)

    for batch in range(8):
        users = [f"{batch}-{client}" for client in range(CLIENTS)]
        assert users == handler.handle(next_batch(context, users), context)

    handler.pool.shutdown()
    handler.close()


def test_a_thread_that_could_belong_to_two_calls_makes_the_handler_stay_whole(caplog):
    """Two calls run, and a thread that neither of them is asks: nobody gets a wrong answer."""
    both, armed = threading.Barrier(2, timeout=60), [1, 1]

    class Two(InPool):
        def preprocess(self, data):
            if armed:
                armed.pop()
                both.wait()  # two lanes are in here now
            return super().preprocess(data)

    section = {"micro_batch_size": 2, "parallelism": {"preprocess": 2}}
    handler, context = loaded(Two, section)
    users = list("abcd")
    with caplog.at_level(logging.WARNING):
        assert users == handler.handle(next_batch(context, users), context)

    handler.pool.shutdown()
    handler.close()
    assert "in a thread that the handler started" in caplog.text
