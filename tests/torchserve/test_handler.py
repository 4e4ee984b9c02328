"""The handler: same answers as BaseHandler, micro-batched."""

from __future__ import annotations

import copy
import json
import sys
import threading
import weakref
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from ts.protocol.otf_message_handler import create_predict_response
from ts.service import Service
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.request_envelope.json import JSONEnvelope
from ts.torch_handler.request_envelope.kserve import KServeEnvelope

from harness.fixtures import collected, lanes
from harness.service import FakeMetrics
from harness.wait import until
from micro_batch_handler import MicroBatchHandler, MicroBatchMixin
from micro_batch_handler.errors import ConfigError
from micro_batch_handler.pipeline import lane_pool
from micro_batch_handler.pipeline.loading_lane import LoadingLane
from micro_batch_handler.torchserve import call_threads, engine, loading
from tests.fakes import Plain, fake_context, parse_predict_response

PATIENCE_S = 20


class Loaded(BaseHandler):
    """A handler that loads its model without a file, as many do."""

    def initialize(self, context):
        torch.manual_seed(0)
        self.device = torch.device("cpu")
        self.model = torch.nn.Linear(3, 5).eval()


class Numbers(Loaded):
    """BaseHandler's own stages on rows of numbers: a matrix product."""

    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])


class Exact(Numbers):
    """Arithmetic that does not depend on the batch size."""

    def inference(self, data):
        return data * 3 + 1


class Tokens(Loaded):
    """A mapping of columns, ragged texts and a list of dicts, as text handlers return."""

    def preprocess(self, data):
        texts = [f"request {row['body']}" for row in data]
        return {"ids": torch.tensor([[len(text), hash(text) % 97] for text in texts]), "raw": texts}

    def inference(self, batch):
        return (batch["ids"].sum(dim=1), batch["raw"])

    def postprocess(self, outputs):
        return [{"text": text, "score": int(score)} for score, text in zip(*outputs, strict=True)]


class Statuses(Exact):
    """Reads and sets what belongs to each request, by its index in `self.context`."""

    def postprocess(self, outputs):
        answers = []
        for index in range(len(outputs)):
            name = self.context.get_request_header(index, "name")
            self.context.set_response_status(201, f"made {name}", index)
            self.context.set_response_content_type(index, f"text/{name}")
            answers.append(f"{name} {self.context.get_request_id(index)}")
        return answers


def rows(number: int) -> list[dict]:
    return [{"body": [float(i), 2.0 * i, -1.0]} for i in range(number)]


def micro_batched(kind: type, **section: object):
    """The handler class with the mixin in front, initialized with this section."""
    mixed = type(f"MicroBatched{kind.__name__}", (MicroBatchMixin, kind), {})
    handler = mixed()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    return handler


def sent(answers: list, context) -> bytes:
    """What TorchServe's worker sends for these answers."""
    return create_predict_response(answers, context.request_ids, "ok", 200, context)


@pytest.fixture
def one_core(monkeypatch):
    """Each stage has one lane."""
    monkeypatch.setattr(engine, "usable_cores", lambda: 1)


SECTIONS = [
    {},
    {"micro_batch_size": 4, "parallelism": {"preprocess": 2, "postprocess": 2}},
    {"micro_batch_size": {"preprocess": 1, "inference": 5, "postprocess": 3}},
    {"micro_batch_size": {"preprocess": 7, "inference": 2, "postprocess": 16}},
    {"micro_batch_size": 64},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("kind", [Numbers, Exact, Tokens, Statuses])
@pytest.mark.parametrize("number", [1, 2, 17, 32])
def test_answers_statuses_and_headers_equal_base_handlers(kind, section, number):
    """A handler answers the same with and without us: exactly, or to rounding of a product."""
    headers = [{"name": f"client-{i}"} for i in range(number)]
    plain, mixed = kind(), micro_batched(kind, **section)
    plain.initialize(fake_context(0))
    contexts = [fake_context(number, headers=headers) for _ in range(2)]

    expected, found = (
        handler.handle(rows(number), context)
        for handler, context in zip((plain, mixed), contexts, strict=True)
    )

    if kind is Numbers:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))
    else:
        assert found == expected
        assert sent(found, contexts[1]) == sent(expected, contexts[0])
    for index in range(number):
        statuses = [context.get_response_status(index) for context in contexts]
        assert statuses[0] == statuses[1]
        assert contexts[0].get_response_headers(index) == contexts[1].get_response_headers(index)


@pytest.mark.parametrize("request_kind", ["describe", "explain"])
def test_describe_and_explain_behave_as_base_handlers(request_kind):
    """The class beside the mixin answers these requests, stages and all."""

    class Explaining(Exact):
        def describe_handle(self):
            return {"about": "numbers"}

        def get_insights(self, tensor_data, _, target=0):
            return [tensor_data.tolist(), target]

    headers = [{request_kind: "True"}] * 2
    plain, mixed = Explaining(), micro_batched(Explaining, micro_batch_size=1)

    answers = [h.handle(rows(2), fake_context(2, headers=headers)) for h in (plain, mixed)]

    assert answers[0] == answers[1]


def test_each_request_of_a_mixed_batch_gets_what_it_asks_for():
    """Describe and explain requests among predictions are answered alone, and harm nobody."""

    class Explaining(Exact):
        def describe_handle(self):
            return {"about": "numbers"}

        def get_insights(self, tensor_data, _, target=0):
            return tensor_data.tolist()

    headers = [{"describe": "True"}, {}, {"explain": "True"}, {}]
    context = fake_context(4, headers=headers)

    answers = micro_batched(Explaining, micro_batch_size=1).handle(rows(4), context)

    assert {"about": "numbers"} == answers[0]
    assert [2.0, 4.0, -1.0] == answers[2]
    assert [[4.0, 7.0, -2.0], [10.0, 19.0, -2.0]] == [answers[1], answers[3]]


@pytest.mark.parametrize("in_lane", [False, True], ids=["its thread", "the loading lane"])
def test_an_explanation_keeps_its_context_while_another_batch_comes(in_lane):
    """Where several batches may be under way, `self.context` is its own, wherever it runs."""
    asked, others_come = threading.Event(), threading.Event()

    class Describing(Exact):
        def handle(self, data, context):
            asked.set()
            assert others_come.wait(PATIENCE_S)
            return [self.context.get_request_header(0, "which")]

    lane = LoadingLane()
    make = partial(micro_batched, Describing, micro_batch_size=1)
    handler = lane.do(make) if in_lane else make()
    first = fake_context(1, headers=[{"describe": "True", "which": "first"}])
    second = fake_context(1, headers=[{"which": "second"}])
    with ThreadPoolExecutor(2) as pool:
        described = pool.submit(handler.handle, rows(1), first)
        assert asked.wait(PATIENCE_S)
        predicted = pool.submit(handler.handle, rows(1), second)
        until(lambda: handler.context is second, "the second batch")
        others_come.set()

        assert ["first"] == described.result(PATIENCE_S)
        assert predicted.result(PATIENCE_S)
    lane.close()


def test_the_profiler_path_is_base_handlers(monkeypatch):
    """With ENABLE_TORCH_PROFILER the whole batch goes through BaseHandler's profiler."""
    seen = []
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")

    class Profiled(Exact):
        def _infer_with_profiler(self, data):
            seen.append(len(data))
            return [0] * len(data), None

    handler = micro_batched(Profiled, micro_batch_size=1)

    assert [0, 0, 0] == handler.handle(rows(3), fake_context(3))
    assert [3] == seen


def test_handler_time_is_emitted_once_per_batch():
    """TorchServe's HandlerTime metric stays, one line a batch."""
    context = fake_context(8)

    micro_batched(Exact, micro_batch_size=2).handle(rows(8), context)

    assert ["HandlerTime"] == [name for name, *_ in context.metrics.emitted]


def test_a_handler_that_calls_neither_init_nor_initialize_works(one_core):
    """Overriding both without calling ours is common; the lanes are there all the same."""

    class Bare(MicroBatchHandler):
        def __init__(self):
            self.greeting = "hello"

        def initialize(self, context):
            self.ready = True

        def preprocess(self, data):
            return [row["body"] for row in data]

        def inference(self, batch):
            return batch

        def postprocess(self, outputs):
            return [f"{self.greeting} {output[0]:.0f}" for output in outputs]

    handler = Bare()
    assert handler.context is None
    handler.initialize(fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": 2}}))
    assert len(lanes()) == 3

    answers = handler.handle(rows(6), fake_context(6))
    assert [f"hello {i}" for i in range(6)] == answers
    handler.close()


def test_settings_are_checked_at_load_though_initialize_is_overridden():
    """A class whose `initialize` does not call ours is refused at load all the same."""

    class Own(MicroBatchHandler):
        def initialize(self, context):
            self.ready = True

    context = fake_context(0, model_yaml={"asyncCommunication": True})

    with pytest.raises(ConfigError, match="asyncCommunication"):
        Own().initialize(context)


@pytest.mark.parametrize("name", ["preprocess", "inference", "postprocess", "handle"])
def test_methods_that_nobody_would_await_are_refused_at_load(name):
    """An `async` stage, also one that the class inherits, would answer a coroutine."""

    async def later(self, data, context=None):
        return data

    handler = type("Late", (type("Base", (), {name: later}), Plain), {})()

    with pytest.raises(ConfigError, match=r"later is async.*asyncio\.run"):
        handler.initialize(fake_context(0))


def test_an_abstract_class_is_refused_at_load():
    """What must be written is named, by an error that TorchServe answers."""

    class Base(MicroBatchHandler):
        @abstractmethod
        def labels(self): ...

    with pytest.raises(ConfigError, match=r"Late is abstract, .* write labels in it"):
        type("Late", (Base,), {})()
    assert type("Whole", (Base,), {"labels": lambda _: []})().labels() == []


def test_lanes_start_when_the_outermost_initialize_returns(one_core):
    """What a subclass sets up after calling its base is there before any lane."""
    seen = []

    class Base(MicroBatchHandler):
        def initialize(self, context):
            seen.append(len(lanes()))

    class Derived(Base):
        def initialize(self, context):
            super().initialize(context)
            seen.append(len(lanes()))

    handler = Derived()
    handler.initialize(fake_context(0))

    assert [0, 0, 3] == [*seen, len(lanes())]
    handler.close()


def test_the_mixin_must_come_first():
    """Behind a handler it would have no effect, so the class cannot be made."""
    with pytest.raises(TypeError, match="MicroBatchMixin must come first"):
        type("Handler", (Exact, MicroBatchMixin), {})


def test_a_stage_replaced_on_the_instance_is_used():
    """Handlers that set `self.inference = …` when they load are respected."""
    handler = micro_batched(Exact, micro_batch_size=2)
    handler.inference = lambda batch: batch * 0

    answers = handler.handle(rows(4), fake_context(4))

    assert [[0.0, 0.0, 0.0]] * 4 == [[abs(number) for number in answer] for answer in answers]


def test_hooks_cut_and_join_a_payload_of_ones_own():
    """With `cut_payload` and `join_payloads` a payload may be of any type, padded as needed."""

    class Padded(MicroBatchHandler):
        def initialize(self, context):
            pass

        def preprocess(self, data):
            return torch.ones(len(data), int(data[0]["body"][0]) + 1)  # another width each time

        def inference(self, batch):
            return batch

        def postprocess(self, outputs):
            return [float(row.sum()) for row in outputs]

        def join_payloads(self, payloads):
            width = max(payload.shape[1] for payload in payloads)
            pad = torch.nn.functional.pad
            return torch.cat([pad(p, (0, width - p.shape[1])) for p in payloads])

    sizes = {"preprocess": 1, "inference": 4, "postprocess": 4}
    context = fake_context(8, model_yaml={"micro_batching": {"micro_batch_size": sizes}})

    assert [1, 2, 3, 4, 5, 6, 7, 8] == Padded().handle(rows(8), context)


def test_initialize_again_replaces_the_lanes(one_core):
    """Loading a handler many times leaves the lanes of one."""
    handler = micro_batched(Exact, parallelism={"preprocess": 4})
    for _ in range(5):
        handler.initialize(fake_context(0))

    assert len(lanes()) == 3
    handler.close()


def test_a_closed_handler_starts_again_with_the_next_batch():
    """Close twice does no harm, and a batch after it is answered."""
    handler = micro_batched(Exact, micro_batch_size=1)
    handler.close()
    handler.close()

    assert len(handler.handle(rows(3), fake_context(3))) == 3


def test_a_forgotten_handler_is_collected_with_its_lanes():
    """Nothing but its owner keeps a handler alive."""
    handler = micro_batched(Exact, micro_batch_size=1)
    handler.handle(rows(3), fake_context(3))
    gone = weakref.ref(handler)

    del handler

    assert collected(lambda: gone() is None)


def test_two_handlers_in_one_thread_keep_their_contexts():
    """A stage that calls another micro-batching handler sees its own context afterwards."""
    inner = micro_batched(Statuses, micro_batch_size=64)

    class Outer(Exact):
        def postprocess(self, outputs):
            names = inner.handle(rows(1), fake_context(1, headers=[{"name": "inner"}]))
            return [
                f"{names[0]} / {self.context.get_request_header(index, 'name')}"
                for index in range(len(outputs))
            ]

    context = fake_context(2, headers=[{"name": "a"}, {"name": "b"}])
    answers = micro_batched(Outer, micro_batch_size=1).handle(rows(2), context)

    assert ["inner id-0 / a", "inner id-0 / b"] == answers


def test_a_bad_section_fails_the_load():
    """The error comes from initialize, before any request."""
    with pytest.raises(ConfigError, match=r"parallelism\.inference"):
        micro_batched(Exact, parallelism={"inference": 0})


@pytest.mark.parametrize(
    ("batch_size", "model_yaml", "says"),
    [
        (1, {}, "batchSize is 1"),
        (8, {"micro_batching": {"micro_batch_size": 8}}, "holds a whole batch of 8"),
        (8, {"handler": {"profile": True}}, "undoes the overlap"),
        (8, {"micro_batching": {"micro_batch_size": {"inference": 9}}}, "above batchSize 8"),
    ],
)
def test_settings_that_leave_nothing_to_overlap_are_named_at_load(
    batch_size, model_yaml, says, caplog
):
    """A setting that works but cannot gain anything is a warning with what to change."""
    handler = type("Handler", (MicroBatchMixin, Exact), {})()
    handler.initialize(fake_context(0, batch_size=batch_size, model_yaml=model_yaml))

    assert says in caplog.text
    handler.close()


def test_more_lanes_than_the_cores_have_use_for_are_not_started(monkeypatch, caplog):
    """Settings of a larger machine do not hold up a small one: at most four a core, and a line."""
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)

    handler = micro_batched(Exact, parallelism={"preprocess": 9, "postprocess": 8})

    assert len(lanes()) == 8 + 1 + 8
    (line,) = [each for each in caplog.messages if "parallelism" in each]
    assert "micro_batching.parallelism.preprocess is 9, and 8 lanes are started" in line
    handler.close()


class Sampled(Exact):
    """Its preprocess keeps something on self; its postprocess does not."""

    def preprocess(self, data):
        self.seen = len(data)
        return super().preprocess(data)


class Declared(Sampled):
    thread_safe = True


@pytest.mark.parametrize(
    ("kind", "model_yaml", "preprocess", "postprocess"),
    [
        (Exact, {}, 2, 2),
        (Exact, {"minWorkers": 2}, 1, 1),
        (Exact, {"micro_batching": {"parallelism": {"preprocess": 3}}}, 3, 2),
        (Sampled, {}, 1, 2),
        (Sampled, {"micro_batching": {"parallelism": "auto"}}, 1, 2),
        (Sampled, {"micro_batching": {"parallelism": {"preprocess": 2}}}, 2, 2),
        (Declared, {}, 2, 2),
    ],
)
def test_auto_starts_a_lane_for_each_core_where_that_is_safe(
    kind, model_yaml, preprocess, postprocess, monkeypatch
):
    """By default, too; cores are shared with the model's other workers, and a number is kept."""
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)
    handler = type("Handler", (MicroBatchMixin, kind), {})()

    handler.initialize(fake_context(0, model_yaml=model_yaml))

    started = [thread.name.split("-")[1] for thread in lanes()]
    assert (preprocess, postprocess) == tuple(map(started.count, ("preprocess", "postprocess")))
    handler.close()


@pytest.mark.parametrize(
    ("model_yaml", "whole", "cut"),
    [
        ({}, 4, 4),
        ({"minWorkers": 2}, 2, 2),
        ({"minWorkers": 9}, 1, 1),
        ({"minWorkers": 2, "micro_batching": {"intra_op_threads": 3}}, 3, 3),
    ],
)
def test_workers_share_the_threads_that_pytorch_may_use(
    model_yaml, whole, cut, monkeypatch, as_before
):
    """Together they have as many as there are cores, whole batches or cut; or what is set."""
    monkeypatch.setattr(engine, "usable_cores", lambda: 4)
    torch.set_num_threads(4)
    seen = set()

    class Noting(MicroBatchMixin, Exact):
        def inference(self, data):
            seen.add(torch.get_num_threads())
            return super().inference(data)

    for size, expected in ((8, whole), (1, cut)):
        handler = Noting()
        section = {**model_yaml.get("micro_batching", {}), "micro_batch_size": size}
        handler.initialize(fake_context(0, model_yaml={**model_yaml, "micro_batching": section}))
        handler.handle(rows(8), fake_context(8))
        handler.close()

        assert {expected} == seen
        seen.clear()
        torch.set_num_threads(4)


@pytest.mark.parametrize("size", [8, 1], ids=["whole", "cut"])
def test_a_worker_shares_them_with_one_that_is_added(size, monkeypatch, as_before):
    """From the next batch on, in lanes and in whole batches."""
    workers, seen = [1], []
    monkeypatch.setattr(engine, "usable_cores", lambda: 4)
    monkeypatch.setattr(loading, "worker_count", lambda _: workers[0])
    monkeypatch.setattr(call_threads, "RECOUNT_S", 0)
    torch.set_num_threads(4)

    class Noting(MicroBatchMixin, Exact):
        def inference(self, data):
            seen.append(torch.get_num_threads())
            return super().inference(data)

    handler = Noting()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": size}}))
    for workers[0], expected in ((1, 4), (2, 2), (1, 4)):
        seen.clear()
        handler.handle(rows(8), fake_context(8))

        assert {expected} == set(seen)
    handler.close()


@pytest.mark.parametrize(("kind", "lines"), [(Exact, 0), (Sampled, 1), (Declared, 0)])
def test_one_lane_instead_of_several_is_explained_once(kind, lines, monkeypatch, caplog):
    """The log says what stands in the way, where, and what would bring more lanes."""
    caplog.set_level("INFO")
    monkeypatch.setattr(engine, "usable_cores", lambda: 2)

    handler = micro_batched(kind)

    told = [each for each in caplog.messages if "gets one lane" in each]
    assert lines == len(told)
    assert all(
        "preprocess gets one lane instead of 2: it stores self.seen (line" in it for it in told
    )
    assert all("thread_safe = True" in it for it in told)
    handler.close()


def test_the_stages_run_in_named_daemon_lanes():
    """TorchServe's worker can exit at any time, and a stack dump names who does what."""
    threads = set()

    class Noting(Exact):
        def inference(self, data):
            threads.add(threading.current_thread())
            return data

    micro_batched(Noting, micro_batch_size=1).handle(rows(3), fake_context(3))

    assert [("mbh-inference-0", True)] == [(thread.name, thread.daemon) for thread in threads]


def predict(handler, bodies: list, envelope: type | None = None) -> list[tuple[int, bytes]]:
    """What TorchServe's own Service makes of a batch: the status and bytes of each request."""
    entry_point = envelope(handler.handle).handle if envelope else handler.handle
    service = Service(
        "model", ".", {"model": {}}, entry_point, None, 32, metrics_cache=FakeMetrics()
    )
    service.set_cl_socket(None)
    requests = [
        {
            "requestId": b"id-%d" % index,
            "headers": [],
            "parameters": [{"name": "body", "contentType": "application/json", "value": body}],
        }
        for index, body in enumerate(bodies)
    ]
    return parse_predict_response(service.predict(requests))


class Doubling(MicroBatchHandler):
    """Doubles the number that each row is, or is in the row's body."""

    def initialize(self, context):
        pass

    def preprocess(self, data):
        return [
            row.get("body") or row.get("data") if isinstance(row, dict) else row for row in data
        ]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return [2 * output for output in outputs]


@pytest.mark.parametrize(
    ("envelope", "bodies", "expected"),
    [
        (None, [1, 2, 3], [2, 4, 6]),
        (
            JSONEnvelope,
            [{"instances": [1]}, {"instances": [2, 3]}],
            [{"predictions": [2]}, {"predictions": [4, 6]}],
        ),
        (KServeEnvelope, [{"instances": [1, 2, 3]}], [{"predictions": [2, 4, 6]}]),
    ],
    ids=["none", "JSON's", "KServe's"],
)
def test_an_envelope_around_the_handler_works(envelope, bodies, expected):
    """Answers are encoded early only where nobody reads them before TorchServe sends them."""
    answers = predict(Doubling(), bodies, envelope)

    assert [200] * len(bodies) == [status for status, _ in answers]
    assert [json.loads(body) for _, body in answers] == expected


def test_a_handle_that_calls_ours_reads_plain_answers():
    """A subclass may override `handle` and go on with what ours returns."""

    class Wrapping(Doubling):
        def handle(self, data, context):
            return [{"answer": answer} for answer in super().handle(data, context)]

    assert [(200, {"answer": 2}), (200, {"answer": 4})] == [
        (status, json.loads(body)) for status, body in predict(Wrapping(), [1, 2])
    ]


def test_an_answer_that_cannot_be_sent_fails_alone():
    """Where TorchServe would end the worker, one request gets a 500; the others are answered."""

    class Circles(Doubling):
        def postprocess(self, outputs):
            answers = [[output] for output in outputs]
            for answer in answers:
                if answer == [2]:
                    answer.append(answer)
            return answers

    answers = predict(Circles(), [1, 2, 3])

    assert [200, 500, 200] == [status for status, _ in answers]
    assert [[1], [3]] == [json.loads(answers[0][1]), json.loads(answers[2][1])]


def test_names_of_the_users_own_do_not_meet_ours():
    """A handler may have a `close`, a `_engine` and a class attribute `context` of its own."""
    closed = []

    class Own(Statuses):
        context = None

        def initialize(self, context):
            self._engine = "TensorRT"

        def close(self):
            closed.append(self)

    handler = type("H", (MicroBatchMixin, Own), {"context": None})()
    section = {"micro_batch_size": 1}
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    context = fake_context(3, headers=[{"name": name} for name in "abc"])

    assert ["a id-0", "b id-1", "c id-2"] == handler.handle(rows(3), context)
    assert [] == closed
    MicroBatchMixin.close(handler)


def test_initialize_keeps_its_signature(one_core):
    """An `initialize` may take more than the context, and name it as it likes."""
    seen = []

    class More(Doubling):
        def initialize(self, ctx, warm=False):
            seen.append(warm)

    class Most(More):
        def initialize(self, ctx):
            super().initialize(ctx, warm=True)

    handler = Most()
    handler.initialize(ctx=fake_context(0))

    assert [True] == seen
    assert len(lanes()) == 3
    handler.close()


def test_the_mixin_works_in_front_of_any_class():
    """A handler class need not be a BaseHandler."""

    class Bare:
        preprocess = staticmethod(lambda data: [row["body"] for row in data])
        inference = staticmethod(lambda batch: batch)
        postprocess = staticmethod(lambda outputs: outputs)

    handler = type("H", (MicroBatchMixin, Bare), {})()

    assert [1, 2] == handler.handle([{"body": 1}, {"body": 2}], fake_context(2))


def test_copies_of_a_context_can_be_made():
    """`copy.copy(self.context)` inside a stage works."""
    copies = []

    class Copying(Doubling):
        def inference(self, batch):
            copies.append(copy.copy(self.context))
            return batch

    Copying().handle([{"body": 1}], fake_context(1))

    assert "id-0" == copies[0].get_request_id(0)


class Bodies(Numbers):
    """Keeps which rows each call of preprocess has got, and raises on a body of zeros."""

    def initialize(self, context):
        super().initialize(context)
        self.calls = []

    def preprocess(self, data):
        self.calls.append([row["body"] for row in data])
        if [0, 0, 0] in self.calls[-1]:
            raise ValueError
        return super().preprocess([{"body": row.pop("body")} for row in data])

    def inference(self, data):
        return data.sum(dim=1)


def raw_batch(*bodies: bytes):
    """Rows and context of a batch whose bodies say that they are JSON, as they came."""
    described = {"body": {"content-type": "application/json"}}
    context = fake_context(len(bodies), headers=[described] * len(bodies))
    return [{"body": bytearray(body)} for body in bodies], context


@pytest.mark.parametrize("on_error", ["isolate", "fail_batch"])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_body_that_is_not_json_costs_nobody_a_call(monkeypatch, size, on_error):
    """It is answered 400; preprocess is called once for what is left of each micro-batch."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    handler = micro_batched(Bodies, micro_batch_size=size, on_error=on_error)
    data, context = raw_batch(b"[1, 1, 1]", b"{", b"[2, 2, 2]", b"[3, 3, 3]", b"]")

    answers = handler.handle(data, context)

    assert [answers[0], *answers[2:4]] == [3, 6, 9]
    codes = [context.get_response_status(index)[0] for index in range(5)]
    assert codes == [200, 400, 200, 200, 400]
    assert answers[4]["type"] == "BodyError"
    left = [[[1] * 3], [[2] * 3], [[3] * 3]]
    expected = {1: left, 2: [left[0], left[1] + left[2]]}.get(
        size, [[row for call in left for row in call]]
    )
    assert sorted(handler.calls) == expected


def test_a_repeated_call_decodes_again(monkeypatch):
    """Rows whose call failed start again from what came, though their bodies were taken out."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    handler = micro_batched(Bodies, micro_batch_size=4)
    data, context = raw_batch(b"[1, 1, 1]", b"[2, 2, 2]", b"{", b"[0, 0, 0]")

    answers = handler.handle(data, context)

    assert answers[:2] == [3, 6]
    assert [each["message"] for each in answers[2:]] == [
        "preprocess: the body is not valid JSON: Expecting property name enclosed in double "
        "quotes: line 1 column 2 (char 1)",
        "preprocess failed",
    ]


@pytest.mark.parametrize("server", ["true", "false"])
def test_bodies_stay_as_they_came_for_a_handler_that_wants_them(monkeypatch, server):
    """With `decode_input_request: false` in its section a handler gets bytes, broken JSON too."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", server)
    handler = micro_batched(Bodies, decode_input_request=False)
    handler.inference = lambda batch: batch
    handler.preprocess = lambda data: [repr(row) for row in data]
    handler.postprocess = list

    assert handler.handle(*raw_batch(b"[1]", b"{")) == [
        "{'body': bytearray(b'[1]')}",
        "{'body': bytearray(b'{')}",
    ]


def test_four_frames_lie_between_a_lane_and_the_users_method():
    """A traceback of a stage shows the method, and few frames of ours above it."""
    depths = []

    class Looks(Plain):
        def inference(self, batch):
            frame, depth = sys._getframe(1), 0
            while frame.f_code.co_filename != lane_pool.__file__:
                frame, depth = frame.f_back, depth + 1
            depths.append(depth)
            return batch

    handler = Looks()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": {"micro_batch_size": 1}}))
    handler.handle([{"body": "text"}] * 4, fake_context(4))
    handler.close()

    assert len(depths) == 4
    assert max(depths) <= 4


@pytest.mark.parametrize(("before_s", "after_s"), [(0.005, 0.001), (0.0002, 0.0002)])
def test_lanes_wait_for_the_interpreter_a_millisecond_at_most(before_s, after_s):
    """The interval is lowered where Python's own is longer, and kept where it is shorter."""
    found_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(before_s)
        Plain().initialize(fake_context(0))
        assert sys.getswitchinterval() == pytest.approx(after_s, abs=2e-6)
    finally:
        sys.setswitchinterval(found_s)
