"""Handlers that stand no splitting answer as BaseHandler does, and it is said once why."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import itertools
import logging
import sqlite3
import threading
import weakref

import numpy as np
import pytest
import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.config import STAGES
from micro_batch_handler.torchserve import engine
from tests.fakes import fake_context, parse_predict_response

SPLITS = [
    {"micro_batch_size": 2},
    {"micro_batch_size": {"preprocess": 1, "inference": 4, "postprocess": 2}},
    {"micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 3}},
    {"micro_batch_size": 3, "parallelism": {"preprocess": 2, "postprocess": 2}},
    {"micro_batch_size": 2, "on_error": "fail_batch"},
    {},
]
CLIENTS = 8
OFFSETS, TOKENIZER = "offsets", "tokenizer"


class Numbers(BaseHandler):
    """What the handlers below have in common: a body is a number."""

    def initialize(self, context):
        self.loaded_in = threading.get_ident()

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return list(outputs)


class Computed(Numbers):
    """Keeps state under a name that no reader of the source can know."""

    def preprocess(self, data):
        numbers = super().preprocess(data)
        setattr(self, OFFSETS, [number % 7 for number in numbers])
        return numbers

    def postprocess(self, outputs):
        offsets = getattr(self, OFFSETS)
        return [number + offset for number, offset in zip(outputs, offsets, strict=True)]


class Queued(Numbers):
    """Appends in one stage and pops in another: after a batch nothing of it is left."""

    def initialize(self, context):
        super().initialize(context)
        self.__dict__["queue"] = []

    def preprocess(self, data):
        numbers = super().preprocess(data)
        vars(self)["queue"].extend(number % 7 for number in numbers)
        return numbers

    def postprocess(self, outputs):
        return [number + vars(self)["queue"].pop(0) for number in outputs]


class Frames(Numbers):
    """A request has several items; their numbers go along."""

    def preprocess(self, data):
        counts = [row["body"] % 3 + 1 for row in data]
        items = [float(row["body"]) for row in data for _ in range(row["body"] % 3 + 1)]
        return torch.tensor(items), counts

    def inference(self, batch):
        items, counts = batch
        return 2 * items, counts

    def postprocess(self, outputs):
        items, counts = outputs
        return [int(part.sum()) for part in torch.split(items, counts)]


class Outputs(Numbers):
    """As onnxruntime returns them: a list of outputs, each of all rows."""

    def preprocess(self, data):
        return np.array([[row["body"], 1.0] for row in data])

    def inference(self, batch):
        return [batch * 2, batch * 3]

    def postprocess(self, outputs):
        first, second = outputs
        return [float(a + b) for a, b in zip(first[:, 0], second[:, 0], strict=True)]


class Maps(Numbers):
    """A prediction, and feature maps of three layers."""

    def preprocess(self, data):
        return torch.tensor([float(row["body"]) for row in data])[:, None]

    def inference(self, batch):
        return batch, [batch * layer for layer in (1, 2, 3)]

    def postprocess(self, outputs):
        predictions, maps = outputs
        return [
            [float(p), *(float(layer[at, 0]) for layer in maps)] for at, p in enumerate(predictions)
        ]


class Transposed(Numbers):
    """Features first, requests second."""

    def preprocess(self, data):
        return torch.tensor([[float(row["body"]), 1.0, 2.0, 3.0] for row in data]).T

    def inference(self, batch):
        return batch.sum(dim=0, keepdim=True) + batch

    def postprocess(self, outputs):
        return outputs[0].tolist()


class Split(Numbers):
    """`torch.split` gives a tuple with a tensor for each row."""

    def preprocess(self, data):
        return torch.tensor([float(row["body"]) for row in data])

    def inference(self, batch):
        return torch.split(batch * 2, 1)

    def postprocess(self, outputs):
        return [float(each) for each in outputs]


class Loop(Numbers):
    """An event loop that belongs to the thread that made it."""

    def initialize(self, context):
        super().initialize(context)
        self.loop = asyncio.new_event_loop()
        weakref.finalize(self, self.loop.close)

    def preprocess(self, data):
        async def read():
            return [row["body"] for row in data]

        if threading.get_ident() != self.loaded_in:
            raise RuntimeError("There is no current event loop in thread")
        return self.loop.run_until_complete(read())


class Connected(Numbers):
    """A connection that no other thread may use."""

    def initialize(self, context):
        super().initialize(context)
        self.connection = sqlite3.connect(":memory:")

    def postprocess(self, outputs):
        ask = self.connection.execute
        return [ask("select 2 * ?", (number,)).fetchone()[0] for number in outputs]


class Told(Connected):
    """The same, and whatever goes wrong is told as if the client had done it."""

    def postprocess(self, outputs):
        try:
            return super().postprocess(outputs)
        except sqlite3.Error as error:
            raise PredictionException(str(error), 422) from error


class One(Numbers):
    """Takes one row a call, and says so."""

    def preprocess(self, data):
        assert len(data) == 1, "one at a time"
        return super().preprocess(data)


class OneDeeper(Numbers):
    """Looks at the first row only, one call deeper."""

    def preprocess(self, data):
        return [self.first(data)]

    def first(self, data):
        return data[0]["body"]


KINDS = [
    Computed,
    Queued,
    Frames,
    Outputs,
    Maps,
    Transposed,
    Split,
    Loop,
    Connected,
    Told,
    One,
    OneDeeper,
]


def loaded(kind, section, batch_size=32):
    handler = type("H", (MicroBatchMixin, kind), {})()
    handler.initialize(
        fake_context(0, model_yaml={"micro_batching": section}, batch_size=batch_size)
    )
    return handler


def plain(kind, number):
    """What BaseHandler answers to this request alone."""
    handler = kind()
    handler.initialize(fake_context(0))
    (answer,) = handler.postprocess(handler.inference(handler.preprocess([{"body": number}])))
    return answer


def ask(handler, numbers):
    """Answers and statuses of a batch."""
    context = fake_context(len(numbers))
    found = handler.handle([{"body": number} for number in numbers], context)
    return found, [context.get_response_status(at)[0] for at in range(len(numbers))]


def stands(kind, section):
    """Whether BaseHandler would serve it in a batch, where faults are not isolated."""
    return "on_error" not in section or kind not in (One, OneDeeper, Loop, Connected, Told)


@pytest.mark.parametrize(
    ("kind", "section"),
    [(kind, section) for kind in KINDS for section in SPLITS if stands(kind, section)],
)
def test_every_answer_is_the_one_for_the_request_alone(kind, section):
    """In batches of many sizes, from the first on, nobody gets what is not theirs, nor an error."""
    handler = loaded(kind, section)

    for batch in range(9):
        numbers = [100 * batch + client for client in range(CLIENTS - batch % 5)]
        expected = [plain(kind, number) for number in numbers]
        assert (expected, [200] * len(numbers)) == ask(handler, numbers), batch

    handler.close()


@pytest.mark.parametrize("section", [each for each in SPLITS if "on_error" not in each])
@pytest.mark.parametrize("kind", KINDS)
def test_beside_a_request_that_fails_the_others_have_their_own_answers(kind, section):
    """A fault that lies in the request costs that request, however the handler is called."""

    class Failing(kind):
        def preprocess(self, data):
            payload = super().preprocess(data)
            if any(row["body"] == 666 for row in data):
                raise ValueError(payload)
            return payload

    handler = loaded(Failing, section)

    for batch in range(6):
        numbers = [1000 * batch + client for client in range(CLIENTS)]
        numbers[batch % CLIENTS] = 666
        found, statuses = ask(handler, numbers)
        assert [400 if number == 666 else 200 for number in numbers] == statuses
        for number, answer in zip(numbers, found, strict=True):
            assert number == 666 or answer == plain(kind, number)

    handler.close()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Computed, "self.offsets changed while preprocess ran"),
        (Loop, "failed in its lanes and were answered in the worker's thread"),
        (Connected, "failed in its lanes and were answered in the worker's thread"),
        (One, "called with one row at a time from now on"),
        (OneDeeper, "called with one row at a time from now on"),
    ],
)
def test_it_is_said_once_why(kind, says, caplog):
    """One line names the reason; after it, nothing is logged any more."""
    handler = loaded(kind, {"micro_batch_size": 2})
    with caplog.at_level(logging.WARNING):
        for batch in range(12):
            ask(handler, [100 * batch + client for client in range(CLIENTS)])
            if batch == 5:
                told = len(caplog.records)
        assert told == len(caplog.records)
    handler.close()  # says how many calls failed before

    assert 1 == sum(says in record.getMessage() for record in caplog.records)
    ways = ["whole batches" in text or "one row at a time" in text for text in caplog.messages]
    assert sum(ways) == 1


class Chunks(Numbers):
    """Sends two parts of each answer before the last."""

    def postprocess(self, outputs):
        for part in (1, 2):
            send_intermediate_predict_response(
                [f"{number}/{part}" for number in outputs],
                self.context.request_ids,
                "Intermediate Prediction success",
                200,
                self.context,
            )
        if 666 in outputs:
            raise ValueError(outputs)
        return [f"{number}/last" for number in outputs]


class Socket:
    def __init__(self):
        self.sent = []

    def sendall(self, message):
        self.sent += parse_predict_response(bytes(message))


@pytest.mark.parametrize("section", SPLITS)
@pytest.mark.parametrize("bad", [False, True])
def test_parts_of_answers_are_sent_once_and_every_stream_ends(section, bad):
    """No client gets a part twice; after a fault each stream is told to end."""
    handler = loaded(Chunks, section)

    for batch in range(4):
        numbers = [100 * batch + client for client in range(CLIENTS)]
        if bad:
            numbers[3] = 666
        context = fake_context(CLIENTS)
        context.cl_socket = Socket()
        handler.handle([{"body": number} for number in numbers], context)

        parts = [body.decode() for _, body in context.cl_socket.sent]
        assert sorted(parts) == sorted(f"{number}/{part}" for number in numbers for part in (1, 2))
        streams = [context.get_response_headers(at).get("ts_stream_next") for at in range(CLIENTS)]
        assert streams == ["true"] * CLIENTS  # the last answer turns it to false
    handler.close()


def test_what_is_loaded_at_the_first_request_does_not_stop_splitting(caplog):
    """State that changes once is no state of a batch: later batches are cut."""

    class Lazy(Numbers):
        def preprocess(self, data):
            if not hasattr(self, "tokenizer"):
                vars(self)[TOKENIZER] = object()
            return super().preprocess(data)

        def inference(self, batch):
            sizes.append(len(batch))
            return batch

    sizes = []
    handler = loaded(Lazy, {"micro_batch_size": 2})
    for _ in range(12):
        ask(handler, list(range(CLIENTS)))
    handler.close()

    assert sizes[-4:] == [2, 2, 2, 2]
    assert "whole batches" not in caplog.text


def test_a_fault_that_comes_by_chance_does_not_stop_splitting(caplog):
    """A request that is answered at another try is no sign of a handler bound to its thread."""
    times = iter(range(1000))

    class Flaky(Numbers):
        def inference(self, batch):
            if any(number % 10 == 3 for number in batch) and next(times) % 4 < 3:
                raise OSError("try again")
            return batch

    handler = loaded(Flaky, {"micro_batch_size": 2})
    for batch in range(2):
        assert [200] * CLIENTS == ask(handler, [batch * 10 + c for c in range(CLIENTS)])[1]
    handler.close()

    assert "whole batches" not in caplog.text


class Sized(Numbers):
    """Keeps sizes for postprocess in plain sight."""

    def preprocess(self, data):
        self.sizes = [row["body"] % 7 for row in data]
        return super().preprocess(data)

    def postprocess(self, outputs):
        return [number + size for number, size in zip(outputs, self.sizes, strict=True)]


def test_state_that_the_source_shows_is_known_at_load(caplog):
    """The attribute, both lines and the way out are said before the first request."""
    with caplog.at_level(logging.WARNING):
        handler = loaded(Sized, {"micro_batch_size": 2})
    handler.close()

    (said,) = [
        text for text in map(logging.LogRecord.getMessage, caplog.records) if "sizes" in text
    ]
    assert "stored in preprocess (line" in said
    assert "read in postprocess (line" in said
    assert "return (images, sizes) from preprocess" in said


def test_a_class_may_say_that_its_stages_share_their_state():
    """`thread_safe = True` lets batches be cut, whatever the stages keep."""

    class Counted(Numbers):
        thread_safe = True

        def initialize(self, context):
            super().initialize(context)
            self.sizes = []

        def preprocess(self, data):
            self.sizes.append(len(data))
            return super().preprocess(data)

        def postprocess(self, outputs):
            assert self.sizes
            return list(outputs)

    handler = loaded(Counted, {"micro_batch_size": 2})
    assert (list(range(8)), [200] * 8) == ask(handler, list(range(8)))
    handler.close()

    assert handler.sizes == [2, 2, 2, 2]


class Scratch(Numbers):
    """Keeps what one call needs on `self`, as if there were one call at a time."""

    def preprocess(self, data):
        self.rows = data
        return self.read()

    def read(self):
        return [row["body"] for row in self.rows]


def test_a_stage_that_keeps_its_own_call_on_self_gets_one_lane(caplog):
    """Several lanes would read each other's rows; the log names the attribute."""
    with caplog.at_level(logging.WARNING):
        handler = loaded(Scratch, {"micro_batch_size": 2, "parallelism": {"preprocess": 4}})
    lanes = [thread.name for thread in threading.enumerate() if "mbh-preprocess" in thread.name]
    assert (list(range(8)), [200] * 8) == ask(handler, list(range(8)))
    handler.close()

    assert lanes == ["mbh-preprocess-0"]
    assert "self.rows" in caplog.text


def test_state_of_a_whole_batch_is_never_read_for_a_part_of_it():
    """What a `handle` has stored for all rows fits all rows only: no call is made again."""

    class Owned(MicroBatchMixin, Numbers):
        def handle(self, data, context):
            self.users = [f"user {row['body']}" for row in data]
            return super().handle(data, context)

        def postprocess(self, outputs):
            if 666 in outputs:
                raise ValueError(outputs)
            return [self.users[at] for at in range(len(outputs))]

    handler = Owned()
    section = {"micro_batch_size": 2}
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    for batch in range(6):
        numbers = [10 * batch + client for client in range(CLIENTS)]
        assert [f"user {number}" for number in numbers] == ask(handler, numbers)[0]
        assert [500] * CLIENTS == ask(handler, [*numbers[1:], 666])[1]
    handler.close()


@pytest.mark.parametrize("kind", [Loop, Connected, Told])
def test_where_calls_are_not_repeated_a_batch_is_tried_whole_after_some_that_failed(kind, caplog):
    """With `fail_batch` three batches fail in lanes; the next is whole, and so are all after it."""
    handler = loaded(kind, {"micro_batch_size": 2, "on_error": "fail_batch"})
    for _ in range(3):
        with pytest.raises(Exception, match=r"thread|loop"):
            ask(handler, list(range(CLIENTS)))
    for batch in range(4):
        numbers = [10 * batch + client for client in range(CLIENTS)]
        assert ([plain(kind, number) for number in numbers], [200] * CLIENTS) == ask(
            handler, numbers
        )
    handler.close()

    assert 1 == caplog.text.count("is called with whole batches")


def test_with_fail_batch_no_call_is_repeated():
    """What a stage does elsewhere is done once for each request, also beside one that fails."""
    written = []

    class Writing(Numbers):
        def preprocess(self, data):
            written.extend(row["body"] for row in data)
            if 5 in written:
                raise ValueError
            return super().preprocess(data)

    handler = loaded(Writing, {"micro_batch_size": 2, "on_error": "fail_batch"})
    with pytest.raises(ValueError):  # noqa: PT011
        ask(handler, list(range(CLIENTS)))
    handler.close()

    assert len(written) == len(set(written))


class Indexed(Numbers):
    """Hands on the place of each row in its call."""

    def preprocess(self, data):
        return [{"place": at, "value": row["body"]} for at, row in enumerate(data)]

    def postprocess(self, outputs):
        answers = [None] * len(outputs)
        for each in outputs:
            answers[each["place"]] = each["value"]
        return answers


class Sorted(Numbers):
    """Sorts its rows by size, and hands on how to undo that."""

    def preprocess(self, data):
        sizes = torch.tensor([row["body"] * 7 % 31 for row in data])
        values = torch.tensor([row["body"] for row in data])
        order = sizes.argsort()
        return values[order], order.argsort()

    def inference(self, batch):
        values, restore = batch
        return values * 2, restore

    def postprocess(self, outputs):
        values, restore = outputs
        return values[restore].tolist()


@pytest.mark.parametrize("section", SPLITS)
@pytest.mark.parametrize("kind", [Indexed, Sorted])
def test_payloads_that_hold_places_of_rows_are_never_cut_or_joined(kind, section):
    """A place means the same row only within the call that gave it."""
    handler = loaded(kind, section)
    for batch in range(30):
        numbers = [100 * batch + client for client in range(CLIENTS - batch % 4)]
        assert ([plain(kind, number) for number in numbers], [200] * len(numbers)) == ask(
            handler, numbers
        )
    handler.close()


class IndexedLate(Numbers):
    """Turns the order of its rows round in inference, and back by the places that they had."""

    def inference(self, batch):
        return [{"place": at, "value": number} for at, number in enumerate(batch)][::-1]

    def postprocess(self, outputs):
        return [each["value"] for each in sorted(outputs, key=lambda each: each["place"])]


@pytest.mark.parametrize("sizes", [(1, 4, 2), (1, 8, 4), (1, 2, 1)])
def test_places_are_found_though_calls_of_one_row_come_first(sizes):
    """Sizes begin with 1, so batches are cut at once: no wrong answer leaves meanwhile."""
    handler = loaded(IndexedLate, {"micro_batch_size": dict(zip(STAGES, sizes, strict=True))})
    for batch in range(20):
        numbers = [100 * batch + client for client in range(8)]
        assert (numbers, [200] * 8) == ask(handler, numbers)
    handler.close()


class Counted(Numbers):
    """Numbers the rows of inference through all calls, from 0 on: those of the first are places."""

    thread_safe = True

    def initialize(self, context):
        super().initialize(context)
        self.numbers = itertools.count()
        self.calls = []

    def inference(self, batch):
        self.calls.append(len(batch))
        return [{"number": next(self.numbers), "value": number} for number in batch]

    def postprocess(self, outputs):
        return [each["value"] for each in outputs]


def test_numbers_that_are_places_by_chance_cost_one_batch():
    """The first call's numbers are 0 to 3, the second's are not: sizes stay as they are set."""
    sizes = {"preprocess": 1, "inference": 4, "postprocess": 2}
    handler = loaded(Counted, {"micro_batch_size": sizes})
    for batch in range(4):
        handler.calls.clear()
        numbers = [100 * batch + client for client in range(8)]
        assert (numbers, [200] * 8) == ask(handler, numbers)
    handler.close()

    assert handler.calls == [4, 4]


class OnContext(Numbers):
    """Leaves something for its next stage on the context."""

    def preprocess(self, data):
        self.context.sizes = [row["body"] % 7 for row in data]
        return super().preprocess(data)

    def postprocess(self, outputs):
        return [n + size for n, size in zip(outputs, self.context.sizes, strict=True)]


class OnKeptContext(OnContext):
    """The same on a context that it kept."""

    def initialize(self, context):
        super().initialize(context)
        self.kept = context

    def preprocess(self, data):
        self.kept.sizes = [row["body"] % 7 for row in data]
        return Numbers.preprocess(self, data)

    def postprocess(self, outputs):
        return [n + size for n, size in zip(outputs, self.kept.sizes, strict=True)]


SIZES = contextvars.ContextVar("SIZES", default=())


class InVariable(Numbers):
    """Leaves it in a context variable, which has another value in each thread."""

    def preprocess(self, data):
        SIZES.set([row["body"] % 7 for row in data])
        return super().preprocess(data)

    def postprocess(self, outputs):
        sizes = [*SIZES.get(), *outputs][: len(outputs)]
        return [n + size for n, size in zip(outputs, sizes, strict=True)]


@pytest.mark.parametrize("section", [each for each in SPLITS if "on_error" not in each])
@pytest.mark.parametrize("kind", [OnContext, OnKeptContext, InVariable])
def test_what_is_left_beside_the_handler_is_seen_as_well(kind, section):
    """State on the context, or in a context variable, keeps batches whole, too."""
    handler = loaded(kind, section)
    context = fake_context(0)
    for batch in range(8):
        numbers = [100 * batch + client for client in range(CLIENTS)]
        found = ask(handler, numbers)
        assert ([number + number % 7 for number in numbers], [200] * CLIENTS) == found
    handler.close()
    assert context is not None


class Loading(Numbers):
    """Loads two things when they are first asked for."""

    @functools.cached_property
    def tokenizer(self):
        return object()

    @functools.cached_property
    def network(self):
        return object()

    def preprocess(self, data):
        assert self.tokenizer
        return super().preprocess(data)

    def inference(self, batch):
        assert self.network
        return batch


def test_what_is_loaded_by_properties_does_not_stop_splitting(caplog):
    """`cached_property` fills an attribute once."""
    handler = loaded(Loading, {"micro_batch_size": 2})
    for _ in range(6):
        ask(handler, list(range(CLIENTS)))
    handler.close()

    assert "whole batches" not in caplog.text


def test_a_call_that_goes_on_after_its_time_ends_a_worker_whose_stages_share_state(monkeypatch):
    """It may write what later calls read, so the worker ends when the next batch comes."""
    ended = []
    monkeypatch.setattr(engine, "end_at_next_batch", lambda context: ended.append(context) or True)
    gate = threading.Event()

    class Hanging(Sized):
        def preprocess(self, data):
            if any(row["body"] == 666 for row in data):
                gate.wait(60)
            return super().preprocess(data)

        def example_row(self):
            return None

    section = {"micro_batch_size": 4, "allowed_sizes": [4], "stage_timeout": 0.2}
    handler = loaded(Hanging, section)
    ask(handler, [1, 2, 3, 4])
    assert not ended
    ask(handler, [666, 2, 3, 4])
    gate.set()
    handler.close()

    assert ended


def test_state_that_changes_after_many_batches_spoils_no_answer(caplog):
    """A rare way through the handler that keeps state is seen when its batch has ended."""

    class Rarely(Numbers):
        def preprocess(self, data):
            numbers = super().preprocess(data)
            if numbers[0] >= 1000:
                setattr(self, OFFSETS, [number % 7 for number in numbers])
            return numbers

        def postprocess(self, outputs):
            offsets = getattr(self, OFFSETS, None) or [0] * len(outputs)
            return [n + offset for n, offset in zip(outputs, offsets, strict=False)]

    handler = loaded(Rarely, {"micro_batch_size": 2})
    for _ in range(110):
        ask(handler, list(range(4)))
    for batch in range(1, 5):
        numbers = [1000 * batch + client for client in range(CLIENTS)]
        assert [number + number % 7 for number in numbers] == ask(handler, numbers)[0]
    handler.close()

    assert "self.offsets changed while" in caplog.text
