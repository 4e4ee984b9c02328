"""Requests that are taken twice."""

from __future__ import annotations

import numpy as np
import pytest

from micro_batch_handler.pipeline.requests import Requests, Unreadable


def test_the_first_taker_gets_the_row_itself():
    """Nothing is copied for a stage that is called once."""
    row = {"body": bytearray(b"abc"), "more": [1]}

    (taken,) = Requests([row]).take([0])

    assert taken is row


def test_a_second_taker_gets_what_came():
    """Whatever the first taker has done to a body, the second finds it as it came."""
    rows = Requests(
        [{"body": bytearray(4), "data": {"a": [1]}, "text": "x"}, bytearray(b"raw"), [1]]
    )

    first = rows.take([0, 1, 2])
    np.frombuffer(first[0]["body"], dtype=np.float32)[:] = 1
    first[0].pop("data")["a"].append(2)
    first[1].clear()
    first[2].clear()

    second = [{"body": bytearray(4), "data": {"a": [1]}, "text": "x"}, bytearray(b"raw"), [1]]
    assert repr(rows.take([0, 1, 2])) == repr(second)


def test_every_taker_gets_a_row_decoded_from_what_came():
    """Decoding starts from what came each time, though it may change the row where it is."""

    def decode(index, row):
        row["body"] = [index, row["body"].decode()]
        return row

    rows = Requests([{"body": bytearray(b"a")}, {"body": bytearray(b"b")}], decode)

    (first,) = rows.take([1])
    first["body"].clear()

    assert rows.take([1]) == [{"body": [1, "b"]}]


def test_rows_that_cannot_be_decoded_are_named():
    """Their errors stand by their places in the batch, and the others can be taken again."""
    rows = Requests(["1", "x", "3", "y"], lambda _, row: int(row))

    with pytest.raises(Unreadable) as raised:
        rows.take([1, 2, 3])

    errors = raised.value.errors
    assert {index: type(error) for index, error in errors.items()} == {1: ValueError, 3: ValueError}
    assert rows.take([2]) == [3]
