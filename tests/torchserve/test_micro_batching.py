"""`MicroBatching`: handlers written for TorchServe's class of this name keep working."""

from __future__ import annotations

import threading
import weakref

import pytest
import torch
from ts.torch_handler.base_handler import BaseHandler

from harness.fixtures import collected, lanes
from micro_batch_handler import MicroBatching, MicroBatchMixin
from micro_batch_handler.errors import ConfigError
from tests.fakes import fake_context

PARALLELISM = {"preprocess": 1, "inference": 2, "postprocess": 3}


class Numbers(BaseHandler):
    """As its users write it: the settings are read in `initialize` and set on `self.handle`."""

    def __init__(self):
        super().__init__()
        self.handle = MicroBatching(self)
        self.seen = []

    def initialize(self, context):
        self.device = torch.device("cpu")
        section = context.model_yaml_config.get("micro_batching", {})
        if "parallelism" in section:
            self.handle.parallelism = section["parallelism"]
        if "micro_batch_size" in section:
            self.handle.micro_batch_size = section["micro_batch_size"]

    def preprocess(self, data):
        self.seen.append(len(data))
        return torch.tensor([row["body"] for row in data])

    def inference(self, batch):
        return batch * 3 + 1

    def describe_handle(self):
        return "numbers"

    def get_insights(self, data, raw, target):
        return [f"why {value}" for value in data.tolist()]


@pytest.fixture
def made():
    """Makes and loads a handler; its lanes end with the test."""
    handlers = []

    def make(kind=Numbers, **section):
        handler = kind()
        handlers.append(handler)
        handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
        return handler

    yield make
    for handler in handlers:
        handler.handle.shutdown()


def ask(handler, rows):
    return handler.handle([{"body": number} for number in range(rows)], fake_context(rows))


def lanes_by_stage(before=frozenset()):
    """How many lanes of each stage there are, without those from before."""
    names = [thread.name for thread in lanes() - before]
    return {stage: sum(stage in name for name in names) for stage in PARALLELISM}


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("size", [1, 8, "auto", {"preprocess": 1, "inference": 5}])
def test_answers_come_in_order(made, size, rows):
    """Whatever the sizes, each request has its own answer, at its own place."""
    handler = made(micro_batch_size=size, parallelism=PARALLELISM)

    assert ask(handler, rows) == [3 * number + 1 for number in range(rows)]


def test_lanes_are_as_many_as_was_set(made):
    """More and fewer lanes are there with the next batch."""
    before = frozenset(lanes())
    handler = made(parallelism=PARALLELISM)
    ask(handler, 4)
    assert lanes_by_stage(before) == PARALLELISM

    for lanes_now in ({"preprocess": 2, "inference": 3, "postprocess": 4}, PARALLELISM):
        handler.handle.parallelism = lanes_now

        assert ask(handler, 4) == [1, 4, 7, 10]
        assert collected(lambda now=lanes_now: lanes_by_stage(before) == now)


def test_a_setting_may_name_some_stages(made):
    """Stages that are not named keep their lanes, and what is read back is a copy."""
    handler = made(parallelism=PARALLELISM)

    handler.handle.parallelism = {"inference": 1}
    handler.handle.parallelism["preprocess"] = 9

    assert handler.handle.parallelism == {**PARALLELISM, "inference": 1}


def test_a_size_that_is_set_counts_from_the_next_batch(made):
    """The size can be set at any time; setting what is in force starts no new lanes."""
    handler = made()
    ask(handler, 4)
    handler.handle.micro_batch_size = 3
    ask(handler, 4)
    threads = lanes()
    handler.handle.micro_batch_size = 3
    ask(handler, 4)

    assert sorted(handler.seen) == [1, 1, 1, 1, 1, 1, 3, 3]
    assert lanes() == threads


def test_model_config_counts_for_what_the_handler_does_not_set(made):
    """Without a word of the handler's, model-config.yaml decides, and then TorchServe's default."""

    class Silent(Numbers):
        def initialize(self, context):
            self.device = torch.device("cpu")

    by_file, by_default = made(Silent, micro_batch_size=2), made(Silent)
    ask(by_file, 4)
    ask(by_default, 4)

    assert (by_file.seen, by_default.seen) == ([2, 2], [1, 1, 1, 1])
    assert (by_default.handle.micro_batch_size, by_default.handle.parallelism) == (1, {})


def test_the_handlers_word_beats_model_config(made):
    """A size of the constructor is in force, and other keys still come from the file."""

    class Fixed(Numbers):
        def __init__(self):
            super().__init__()
            self.handle = MicroBatching(self, micro_batch_size=4, parallelism={"inference": 1})

        def initialize(self, context):
            self.device = torch.device("cpu")

    handler = made(Fixed, micro_batch_size=2, on_error="fail_batch")
    ask(handler, 8)

    assert handler.seen == [4, 4]
    with pytest.raises(TypeError, match="str"):
        handler.handle([{"body": 1}, {"body": "no number"}], fake_context(2))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"parallelism": {"inference": 0}}, "parallelism.inference must be a whole number >= 1"),
        ({"parallelism": {"infer": 1}}, "parallelism.infer is not a known key"),
        ({"micro_batch_size": 0}, "micro_batch_size must be a whole number >= 1"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_set(settings, says):
    """TorchServe's class takes no lanes and then hangs; here the line that says so raises."""
    with pytest.raises(ConfigError, match=says):
        MicroBatching(BaseHandler(), **settings)


def test_a_section_that_cannot_work_is_refused_at_load(made):
    """Other keys of the section are checked as for any handler."""
    with pytest.raises(ConfigError, match="on_eror is not a known key"):
        made(on_eror="isolate")


def test_explain_and_describe_are_answered(made):
    """What asks for something else than a prediction is answered by the handler's own methods."""
    handler = made(micro_batch_size=1)
    rows = [{"body": 5}, {"body": 6}]

    explained = handler.handle(rows, fake_context(2, headers=[{"explain": "True"}] * 2))
    described = handler.handle(rows[:1], fake_context(1, headers=[{"describe": "True"}]))

    assert explained == ["why 5", "why 6"]
    assert described == ["numbers"]


class Indexed(Numbers):
    """Finds its requests by `get_micro_batch_idx`, as TorchServe's streaming examples do."""

    def inference(self, batch):
        start = self.handle.get_micro_batch_idx() * self.handle.micro_batch_size
        ids = {
            place: self.context.request_ids[index]
            for place, index in enumerate(range(start, start + self.handle.micro_batch_size))
            if index in self.context.request_ids
        }
        if 13 in batch and len(batch) > 1:
            raise ValueError("not together with others")
        for place in range(len(batch)):
            name = self.context.get_request_header(start + place, "name")
            self.context.set_response_header(start + place, "name", name)
            self.context.metrics.add_time("Took", 1, start + place)
        return [(ids[place], int(number)) for place, number in enumerate(batch)]

    def postprocess(self, outputs):
        return outputs


@pytest.mark.parametrize("size", [1, 4])
def test_indices_of_a_micro_batch_lead_to_its_requests(made, size):
    """Counting from the micro-batch's number finds its requests, also when some are repeated."""
    handler = made(Indexed, micro_batch_size=size)
    context = fake_context(18, headers=[{"name": f"client {at}"} for at in range(18)])

    answers = handler.handle([{"body": number} for number in range(18)], context)

    assert answers == [(f"id-{number}", number) for number in range(18)]
    assert [context.get_response_headers(at)["name"] for at in range(18)] == [
        f"client {at}" for at in range(18)
    ]
    took = [idx for name, _, idx, _ in context.metrics.emitted if name == "Took"]
    assert sorted(took) == list(range(18))


def test_a_handler_that_micro_batches_already_takes_it_too(made):
    """Beside `MicroBatchMixin` the settings of the `MicroBatching` are in force."""

    class Both(MicroBatchMixin, Numbers):
        pass

    handler = made(Both, micro_batch_size=4)

    assert ask(handler, 8) == [3 * number + 1 for number in range(8)]
    assert handler.seen == [4, 4]


def test_outside_of_a_stage_there_is_no_index(made):
    """The number of a micro-batch is known in its stages only."""
    assert made().handle.get_micro_batch_idx() is None


def test_the_context_in_a_stage_is_the_micro_batchs(made):
    """A handler that counts from 0 in its stages reads and sets what is its requests'."""

    class Named(Numbers):
        def postprocess(self, outputs):
            return [self.context.get_request_id(place) for place in range(len(outputs))]

    handler = made(Named, micro_batch_size=3)

    assert ask(handler, 7) == [f"id-{place}" for place in range(7)]
    assert isinstance(handler, MicroBatchMixin)
    assert isinstance(handler, Named)


def test_hooks_of_the_handlers_class_count(made):
    """The mixin's own hooks, which come first, do not hide those of the handler."""

    class Joins(Numbers):
        joined = 0

        def join_payloads(self, payloads):
            self.joined += 1
            return torch.cat(list(payloads))

    handler = made(Joins, micro_batch_size={"preprocess": 1, "inference": 4, "postprocess": 4})

    assert ask(handler, 4) == [1, 4, 7, 10]
    assert handler.joined == 1


def test_a_fault_costs_one_request(made):
    """With TorchServe's class it would stall the batch for ever."""
    handler = made(micro_batch_size=2)
    context = fake_context(4)

    answers = handler.handle([{"body": n} for n in (0, 1, "x", 3)], context)

    assert [answers[0], answers[1], answers[3]] == [1, 4, 10]
    assert [context.get_response_status(at)[0] for at in range(4)] == [200, 200, 400, 200]


def test_a_shut_down_handler_serves_again(made):
    """`shutdown` ends the lanes, may be called twice, and the next batch starts new ones."""
    before = frozenset(lanes())
    handler = made()
    ask(handler, 2)

    handler.handle.shutdown()
    handler.handle.shutdown()

    assert collected(lambda: not lanes() - before)
    assert ask(handler, 2) == [1, 4]


def test_stages_overlap(made):
    """Two requests are in different stages at the same time."""
    meet = threading.Barrier(2, timeout=60)

    class Meeting(Numbers):
        def inference(self, batch):
            if batch.tolist() == [0]:
                meet.wait()
            return super().inference(batch)

        def preprocess(self, data):
            if data[0]["body"] == 1:
                meet.wait()
            return super().preprocess(data)

    assert ask(made(Meeting), 2) == [1, 4]


def test_a_forgotten_handler_is_collected():
    """The circle of handler and `MicroBatching` is no reason to stay."""
    handler = Numbers()
    handler.initialize(fake_context(0))
    ask(handler, 3)
    gone = weakref.ref(handler)

    del handler

    assert collected(lambda: gone() is None)
