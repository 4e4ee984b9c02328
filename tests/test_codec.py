"""Answers, encoded inside the lanes."""

from __future__ import annotations

import io
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ts.protocol.otf_message_handler import create_predict_response

from micro_batch_handler.torchserve.codec import encode
from tests.fakes import fake_context

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def sent(answer) -> bytes:
    """What TorchServe's worker sends for this answer."""
    context = fake_context(1)
    return bytes(create_predict_response([answer], context.request_ids, "ok", 200, context))


@given(JSON.filter(lambda answer: not isinstance(answer, str)) | st.binary())
def test_torchserve_sends_the_same_bytes(answer):
    """Whatever the answer, encoding it here changes nothing for the client."""
    assert sent(answer) == sent(encode(answer))


@pytest.mark.parametrize("answer", ["größe", b"raw", bytearray(b"raw"), {"a": [1, None]}, 1.5])
def test_text_bytes_and_json_are_sent_as_ever(answer):
    """Text as UTF-8, bytes as they are, the rest as JSON."""
    assert sent(answer) == sent(encode(answer))


def test_tensors_are_saved_as_torchserve_does():
    """A client loads the same tensor."""
    assert torch.equal(torch.arange(3), torch.load(io.BytesIO(encode(torch.arange(3)))))


@pytest.mark.parametrize("answer", [{1, 2}, object(), [torch.zeros(1)], "\ud800", {(1, 2): 3}])
def test_what_cannot_be_sent_is_an_error_here(answer):
    """An answer that would end TorchServe's worker is an exception of its own micro-batch."""
    with pytest.raises((TypeError, ValueError)):
        encode(answer)


def test_circles_and_depths_are_errors_too():
    """So are answers that contain themselves or nest too deeply."""
    circle: list = []
    circle.append(circle)
    deep = json.loads("[" * 900 + "]" * 900)
    for _ in range(5):
        deep = [deep] * 1
    for _ in range(100_000):
        deep = [deep]

    for answer in (circle, deep):
        with pytest.raises((ValueError, RecursionError)):
            encode(answer)
