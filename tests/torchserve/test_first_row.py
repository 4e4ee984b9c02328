"""Handlers that take the first row only: they are found, and called with one row at a time."""

from __future__ import annotations

import functools
import logging

import pytest
import torch
from ts.handler_utils.timer import timed
from ts.torch_handler.base_handler import BaseHandler

from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.torchserve.brought import BroughtFunction
from micro_batch_handler.torchserve.reading.first_row import takes_first_row_only
from tests.fakes import fake_context


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


class Ways:
    """Ways to write preprocess."""

    def as_the_text_classifier(self, data):
        line = data[0]
        text = line.get("data") or line.get("body")
        return text, [text]

    def rebound(self, data):
        data = data[0]["body"]
        return [data, data.upper()]

    def twice(self, requests):
        return requests[0].get("data") or requests[0].get("body")

    @timed
    def is_timed(self, data):
        return data[0]

    @decorated
    def is_decorated(self, data):
        return data[0]

    def all_rows(self, data):
        return [row["body"] for row in data]

    def first_for_a_look(self, data):
        kind = type(data[0])
        return [kind(row) for row in data]

    def rebound_in_a_branch(self, data):
        if data[0] is None:
            data = data[0]
        return [row for row in data]  # noqa: C416

    def counts(self, data):
        return [data[0]] * len(data)

    def second(self, data):
        return data[1]

    def nothing(self, data):
        return 5

    def no_rows(self):
        return 5

    @timed
    def all_rows_timed(self, data):
        return list(data)


FIRST_ROW_ONLY = ["as_the_text_classifier", "rebound", "twice", "is_timed", "is_decorated"]


@pytest.mark.parametrize("way", [name for name in vars(Ways) if not name.startswith("__")])
def test_only_what_provably_forgets_rows_is_found(way):
    """A method is found if all that it reads of its argument is item 0, and not else."""
    assert (way in FIRST_ROW_ONLY) == takes_first_row_only(getattr(Ways(), way), way)


@pytest.mark.parametrize("function", [len, functools.partial(print), eval("lambda data: data[0]")])
def test_without_a_source_nothing_is_said(function):
    """A function that cannot be read is taken to handle all its rows."""
    assert not takes_first_row_only(function, "preprocess")


def test_a_helper_of_a_method_is_not_taken_for_it():
    """A function that a method calls says nothing of the rows that the method takes."""

    def first(rows, of):
        return of[0]

    class Helped:
        def preprocess(self, data):
            return [first(data, row) for row in data]

    assert not takes_first_row_only(Helped().preprocess, "preprocess")


class Text(BaseHandler):
    """As TorchServe's text classifier: flat tokens of one text, and the text beside them."""

    def initialize(self, context):
        self.device = torch.device("cpu")
        self.calls = []

    def preprocess(self, data):
        text = data[0].get("data") or data[0].get("body")
        self.calls.append("preprocess")
        return torch.tensor([ord(letter) for letter in text]), list(text)

    def inference(self, data):
        self.calls.append("inference")
        return data[0].sum().reshape(1, 1)

    def postprocess(self, data):
        return [{"sum": int(data[0])}]


def loaded(kind, **section):
    handler = type("Mixed", (MicroBatchMixin, kind), {})()
    handler.initialize(fake_context(0, model_yaml={"micro_batching": section}))
    return handler


@pytest.mark.parametrize(
    "section",
    [{}, {"micro_batch_size": 4}, {"micro_batch_size": {"inference": 4}}, {"parallelism": 2}],
)
def test_each_request_has_its_answer(section, caplog):
    """Every text of a batch is answered, whatever its payload looks like, and the log says why."""
    texts = ["a", "bb", "ccc", "dddd"]
    with caplog.at_level(logging.WARNING):
        handler = loaded(Text, **section)
    try:
        for _ in range(2):
            answers = handler.handle([{"body": text} for text in texts], fake_context(4))

            assert answers == [{"sum": sum(map(ord, text))} for text in texts]
    finally:
        handler.close()
    assert sorted(handler.calls) == sorted(["preprocess", "inference"] * 8)
    said = [record.message for record in caplog.records if "first row" in record.message]
    assert len(said) == 1
    assert "Text.preprocess takes the first row" in said[0]


def test_sizes_beside_a_preprocess_of_one_row_stay():
    """Whoever writes that preprocess takes one row knows what the others take."""

    class Rows(Text):
        def preprocess(self, data):
            return torch.tensor([[data[0]["body"]]])

        def inference(self, data):
            self.calls.append(len(data))
            return data * 2

        def postprocess(self, data):
            return data.flatten().tolist()

    handler = loaded(Rows, micro_batch_size={"inference": 4, "preprocess": 1})
    answers = handler.handle([{"body": number} for number in range(8)], fake_context(8))
    handler.close()

    assert answers == [2 * number for number in range(8)]
    assert handler.calls == [4, 4]


def test_a_function_that_takes_the_first_row_is_called_row_by_row():
    """A function in place of stages is looked at too."""
    calls = []

    def function(data, context):
        if data is None:
            return None
        calls.append(1)
        return [data[0]["body"]]

    front = type("Front", (BroughtFunction,), {"function": staticmethod(function)})()
    front.initialize(fake_context(0))

    answers = front.handle([{"body": number} for number in range(3)], fake_context(3))
    front.close()

    assert answers == [0, 1, 2]
    assert calls == [1, 1, 1]
