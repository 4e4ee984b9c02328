"""Hooks of ours, and methods of a handler's own that only have their names."""

from __future__ import annotations

import logging

import pytest
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchHandler, MicroBatchMixin
from tests.fakes import fake_context

SECTION = {"micro_batch_size": {"preprocess": 1, "inference": 4, "postprocess": 2}}


class Helpers(BaseHandler):
    """Has methods of its own with the names of hooks, and calls them."""

    def initialize(self, context):
        self.closed = []
        self.close("loading")

    def preprocess(self, data):
        groups = self.group_by([row["body"] for row in data], lambda number: number % 2)
        return self.join_payloads(groups[0], groups[1])

    def inference(self, batch):
        return batch

    def postprocess(self, outputs):
        return [self.cut_payload(number) for number in outputs]

    def group_by(self, items, key):
        return {k: [item for item in items if key(item) == k] for k in (0, 1)}

    def join_payloads(self, one, other):
        return sorted([*one, *other])

    def cut_payload(self, number):
        return number % 100

    def example_row(self, number):
        return number

    def close(self, reason):
        self.closed.append(reason)


def answers(handler, section):
    """What a batch of eight numbers gets."""
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    context = fake_context(8)
    found = handler.handle([{"body": number} for number in range(101, 109)], context)
    MicroBatchMixin.close(handler)
    return found, [context.get_response_status(at)[0] for at in range(8)]


@pytest.mark.parametrize(
    "bases", [(MicroBatchMixin, Helpers), (Helpers,)], ids=["mixed in", "ours"]
)
@pytest.mark.parametrize("section", [{}, SECTION, {**SECTION, "allowed_sizes": [1, 2, 4]}])
def test_methods_with_the_name_of_a_hook_and_other_arguments_are_left_alone(bases, section, caplog):
    """The handler's own calls reach them, and we call ours; the log says which were left alone."""
    if bases == (Helpers,):
        names = {name: value for name, value in vars(Helpers).items() if callable(value)}
        kind = type("H", (MicroBatchHandler,), names)
    else:
        kind = type("H", bases, {})
    handler = kind()
    handler.postprocess = lambda outputs: [number % 100 for number in outputs]

    with caplog.at_level(logging.WARNING):
        found = answers(handler, section)

    assert ([1, 2, 3, 4, 5, 6, 7, 8], [200] * 8) == found
    assert ["loading"] == handler.closed
    assert "group_by" in caplog.text


def test_a_hook_beside_the_mixin_counts_if_it_takes_what_a_hook_takes():
    """`group_by(self, payload)` of a class that knows nothing of us keeps rows apart."""
    calls = []

    class Grouping(BaseHandler):
        def initialize(self, context):
            pass

        def preprocess(self, data):
            return [row["body"] for row in data]

        def inference(self, batch):
            calls.append(sorted({number % 2 for number in batch}))
            return batch

        def postprocess(self, outputs):
            return list(outputs)

        def group_by(self, payload):
            return [number % 2 for number in payload]

    found = answers(type("H", (MicroBatchMixin, Grouping), {})(), {"micro_batch_size": 4})

    assert (list(range(101, 109)), [200] * 8) == found
    assert all(len(kinds) == 1 for kinds in calls)
