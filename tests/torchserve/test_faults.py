"""What clients of failed requests are told."""

from __future__ import annotations

import json

import pytest
import torch
from ts.protocol.otf_message_handler import create_predict_response
from ts.utils.util import PredictionException

from micro_batch_handler.errors import (
    BodyError,
    DeadlinePassed,
    HostLost,
    HostMissing,
    LengthError,
)
from micro_batch_handler.pipeline.outcomes import Failure, Outcomes
from micro_batch_handler.torchserve.faults import answer_failures, raise_first
from micro_batch_handler.torchserve.responses import clean_phrase
from tests.fakes import fake_context


class Unreadable:
    def __str__(self):
        raise RuntimeError("no text")


def answered(stage: str, error: BaseException, *indices: int):
    """The answers and context of a batch of four in which `indices` failed so."""
    failure = Failure(stage, error, indices or (1,))
    context = fake_context(4)
    outcomes = Outcomes(["a", "b", "c", "d"], dict.fromkeys(failure.indices, failure), [])
    return answer_failures(outcomes, context), context


@pytest.mark.parametrize(
    ("stage", "error", "code", "phrase", "message"),
    [
        ("preprocess", ValueError("secret"), 400, "Bad Request", "preprocess failed"),
        ("inference", ValueError("secret"), 500, "Internal Server Error", "inference failed"),
        ("postprocess", SystemExit(3), 500, "Internal Server Error", "postprocess failed"),
        ("preprocess", BodyError("preprocess", "not JSON"), 400, None, "preprocess: not JSON"),
        ("preprocess", LengthError("preprocess", 1, 2), 500, None, "preprocess failed"),
        ("inference", MemoryError("secret"), 507, "Insufficient Storage", "Out of resources"),
        ("inference", torch.OutOfMemoryError("secret"), 507, None, "Out of resources"),
        ("inference", HostLost("inference"), 507, None, "Out of resources"),
        ("inference", HostMissing("inference", "secret"), 503, None, "the process with the model"),
        ("preprocess", HostMissing("preprocess"), 503, None, "the process with the model"),
        ("preprocess", PredictionException("no photo", 415), 415, None, "no photo"),
        ("inference", PredictionException("näh\r\n", 422), 422, None, "näh\r\n"),
        ("inference", PredictionException("odd", 599), 599, "Error", "odd"),
        ("inference", PredictionException("odd", 100), 500, None, "odd"),
        ("inference", PredictionException("odd", "404"), 500, None, "odd"),
        ("inference", PredictionException(Unreadable(), 409), 409, None, "the error has no"),
    ],
)
def test_each_fault_has_its_status_and_body(stage, error, code, phrase, message):
    """The table of errors holds, and no text of an exception but PredictionException's leaks."""
    answers, context = answered(stage, error)

    assert {"code": code, "type": type(error).__name__} == {
        key: answers[1][key] for key in ("code", "type")
    }
    assert answers[1]["message"].startswith(message)
    assert "secret" not in json.dumps(answers)
    status, found = context.get_response_status(1)
    assert code == status
    assert found == phrase or phrase is None
    assert "application/json" == context.get_response_content_type(1)


def test_what_the_client_did_alone_fails_no_batch():
    """With `on_error: fail_batch` too, a bad body or a passed deadline is its request's own."""
    own = [Failure("preprocess", BodyError("preprocess", "not JSON"), [0])]
    own.append(Failure("preprocess", DeadlinePassed("preprocess"), [1]))
    outcomes = Outcomes([None] * 3, dict(enumerate(own)), [])

    raise_first(outcomes)

    outcomes.failures[2] = Failure("inference", KeyError("a"), [2])
    with pytest.raises(KeyError):
        raise_first(outcomes)


def test_neighbours_keep_their_answers_and_statuses():
    """Only the failed request is touched."""
    answers, context = answered("inference", ValueError())

    assert ["a", "c", "d"] == [answers[0], *answers[2:]]
    assert [200] * 3 == [context.get_response_status(index)[0] for index in (0, 2, 3)]


class WithoutInitError(PredictionException):
    """A subclass that does not call its base."""

    def __init__(self):
        pass


@pytest.mark.parametrize("error", [WithoutInitError(), SyntaxError("m", ("f", 1, "x", "text"))])
def test_an_odd_exception_costs_its_own_request(error):
    """Exceptions that lack what their kind has, or cannot be shown, are answered like others."""
    answers, _ = answered("inference", error)

    assert 500 == answers[1]["code"]


def test_headers_of_a_failed_request_are_not_left_on_its_error():
    """What its stages had set for the answer goes with the answer."""
    failure = Failure("postprocess", ValueError(), (0,))
    context = fake_context(1)
    context.set_response_header(0, "content-encoding", "gzip")

    answer_failures(Outcomes([None], {0: failure}, []), context)

    assert {"content-type": "application/json"} == context.get_response_headers(0)


@pytest.mark.parametrize(
    ("phrase", "clean"),
    [
        ("fine", "fine"),
        ("a\r\nb", "a  b"),
        ("ü\x00\u2028", "? ?"),
        ("x" * 500, "x" * 128),
        (7, "7"),
    ],
)
def test_phrases_are_short_ascii_without_line_ends(phrase, clean):
    """Whatever the text, what reaches the frontend is one line of plain characters."""
    assert clean == clean_phrase(phrase)


def test_torchserve_encodes_the_bodies():
    """The worker protocol takes the answers as they are, mixed with good ones."""
    answers, context = answered("inference", PredictionException("größe\n", 422))

    message = create_predict_response(
        answers, context.request_ids, "Prediction success", 200, context
    )

    assert b'"code": 422' in message
    assert json.dumps("größe\n").encode() in message
