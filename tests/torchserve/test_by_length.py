"""Requests cut in the order of their length."""

from __future__ import annotations

import logging

import pytest
import torch
from ts.utils.util import PredictionException

from micro_batch_handler.torchserve.sizing import by_length, length
from tests.fakes import Plain, fake_context

BODIES = [b"seven ..", b"a", b"four", b"bb", b"nine ......", b"c", b"three", b"ddd"]


class Watched(Plain):
    """Keeps the lengths of each call of inference; answers what came, and says whose it was."""

    def initialize(self, context):
        self.calls = []
        super().initialize(context)

    def inference(self, batch):
        self.calls.append([len(body) for body in batch])
        return batch

    def postprocess(self, outputs):
        for place, body in enumerate(outputs):
            name = self.context.get_request_header(place, "name")
            self.context.set_response_status(201, f"{name} {len(body)}", place)
            self.context.set_response_header(place, "x-id", self.context.get_request_id(place))
            self.context.metrics.add_counter("bytes", len(body), place)
        return outputs


@pytest.fixture
def answered():
    """The handler, the context and the answers of these bodies, with the section that is given."""
    made = []

    def answer(kind=Watched, headers=None, **section):
        handler = kind()
        made.append(handler)
        section = {"micro_batch_size": 3, "sort_by_length": True, **section}
        handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
        headers = headers or [{"name": f"client-{place}"} for place in range(len(BODIES))]
        context = fake_context(len(BODIES), headers=headers)
        return handler, context, handler.handle([{"body": body} for body in BODIES], context)

    yield answer
    for handler in made:
        handler.close()


def test_requests_of_like_length_share_calls(answered):
    """Each call has the shortest of those that are left."""
    handler, _, _ = answered()

    assert [[1, 1, 2], [3, 4, 5], [8, 11]] == handler.calls


@pytest.mark.parametrize("sizes", [1, 3, {"preprocess": 2, "inference": 3, "postprocess": 4}])
def test_all_that_belongs_to_a_request_stays_with_it(answered, sizes):
    """Answers, statuses, headers, ids and metrics are those of the request, in whatever order."""
    _, context, answers = answered(micro_batch_size=sizes)

    assert answers == BODIES
    for place, body in enumerate(BODIES):
        assert (201, f"client-{place} {len(body)}") == context.get_response_status(place)
        assert f"id-{place}" == context.get_response_headers(place)["x-id"]
    counted = {
        (place, value) for name, value, place, _ in context.metrics.emitted if place is not None
    }
    assert {(place, len(body)) for place, body in enumerate(BODIES)} == counted


def test_a_fault_costs_its_own_request(answered, caplog):
    """The request that fails gets its own status, and the log names it."""

    class Refusing(Watched):
        def inference(self, batch):
            if b"four" in batch:
                raise PredictionException("no fours", 418)
            return batch

    with caplog.at_level(logging.WARNING):
        _, context, answers = answered(kind=Refusing)

    statuses = [context.get_response_status(place)[0] for place in range(len(BODIES))]
    assert [201, 201, 418, 201, 201, 201, 201, 201] == statuses
    assert "no fours" == answers[2]["message"]
    assert answers[:2] + answers[3:] == BODIES[:2] + BODIES[3:]
    assert "to requests id-2: no fours" in caplog.text


def test_a_batch_that_is_not_cut_stays_as_it_came(answered):
    """Where all rows share the call, their order costs nothing and changes nothing."""
    handler, _, answers = answered(micro_batch_size=8)

    assert [[len(body) for body in BODIES]] == handler.calls
    assert answers == BODIES


def test_order_is_that_of_arrival_unless_asked_for(answered):
    """A handler with a state may depend on it."""
    handler, _, _ = answered(sort_by_length=False)

    assert [[8, 1, 4], [2, 11, 1], [5, 3]] == handler.calls


def test_a_deadline_is_that_of_its_request(answered):
    """The request that came too late leaves, and no other."""

    class Impatient(Watched):
        def postprocess(self, outputs):
            return outputs

    headers = [{"left_ms": "0" if place == 4 else "60000"} for place in range(len(BODIES))]
    _, context, _ = answered(kind=Impatient, headers=headers, deadline_header="left_ms")

    statuses = [context.get_response_status(place)[0] for place in range(len(BODIES))]
    assert [200, 200, 200, 200, 504, 200, 200, 200] == statuses


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"body": b"12345"}, 5),
        ({"data": bytearray(7)}, 7),
        ({"body": {"text": "four", "top": 3}}, 5),
        ({"body": [[1.0, 2.0], [3.0]]}, 3),
        ({"first": b"12", "second": "345"}, 5),
        ({"body": None}, 1),
        ({}, 0),
        (torch.zeros(3), 1),
    ],
    ids=str,
)
def test_length_is_that_of_what_a_client_sent(row, expected):
    """Bytes of raw bodies; characters and numbers of decoded ones."""
    assert length(row) == expected


def test_a_deeply_nested_body_has_a_length():
    """What a client sends cannot end the batch here."""
    body = []
    for _ in range(100_000):
        body = [body]

    assert [1, 0] == by_length([{"body": [1, body]}, {"body": b""}])


def test_rows_of_equal_length_stay_in_the_order_in_which_they_came():
    """So that the same batch gives the same calls."""
    assert [2, 0, 1, 3] == by_length(
        [{"body": b"aa"}, {"body": b"bb"}, {"body": b"c"}, {"body": b"dd"}]
    )
