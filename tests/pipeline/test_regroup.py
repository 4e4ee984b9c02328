"""Regrouping between stages of different sizes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from micro_batch_handler.pipeline.micro_batch import Part, gather
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN
from micro_batch_handler.pipeline.regroup import Regroup, bounds

sizes = st.integers(1, 70)
batches = st.integers(0, 70)


def part(indices: list[int]) -> Part:
    """A result whose rows are the indices themselves."""
    return Part(list(indices), len(indices), 0, len(indices))


def regroup(rows: int, before: int, after: int, order: random.Random) -> dict[int, list[int]]:
    """Send each micro-batch of `before` through in random order; the groups, by first row."""
    boundary = Regroup(rows, before, after)
    arriving = [list(range(*limit)) for limit in bounds(rows, before)]
    order.shuffle(arriving)
    groups = {}
    for indices in arriving:
        for batch in boundary.add(indices, part(indices)):
            assert list(batch.indices) == gather(batch.parts, CUT_AND_JOIN)
            groups[batch.indices[0]] = list(batch.indices)
    return groups


@given(batches, sizes, sizes, st.randoms(use_true_random=False))
@settings(max_examples=500)
def test_every_row_arrives_once_in_its_group(rows, before, after, order):
    """For any batch, sizes and order of completion, the groups are exactly the plan's."""
    groups = regroup(rows, before, after, order)

    assert {start: list(range(start, stop)) for start, stop in bounds(rows, after)} == groups


def test_every_pair_of_sizes_for_every_batch():
    """Every batch of 0 to 70 with every pair of sizes up to 8, and their neighbours, regroups."""
    order = random.Random(1)
    steps = [1, 2, 3, 5, 7, 8, 16, 33, 64, 70]
    for rows in range(71):
        for before in steps:
            for after in steps:
                groups = regroup(rows, before, after, order)
                assert sorted(i for group in groups.values() for i in group) == list(range(rows))


@given(batches, sizes, sizes, st.randoms(use_true_random=False))
def test_failed_rows_hold_nobody_up(rows, before, after, order):
    """Rows that failed leave their groups, and the groups leave without them."""
    boundary = Regroup(rows, before, after)
    lost = {row for row in range(rows) if order.random() < 0.3}
    events = [(True, list(range(*limit))) for limit in bounds(rows, before)]
    events = [(True, [i for i in rows_ if i not in lost]) for _, rows_ in events]
    events = [event for event in events if event[1]] + [(False, [row]) for row in lost]
    order.shuffle(events)

    ready = []
    for came, indices in events:
        ready += boundary.add(indices, part(indices)) if came else boundary.drop(indices)

    arrived = [row for batch in ready for row in gather(batch.parts, CUT_AND_JOIN)]
    assert sorted(arrived) == [row for row in range(rows) if row not in lost]
    assert all(len({row // after for row in batch.indices}) == 1 for batch in ready)


def test_equal_sizes_pass_the_payload_untouched():
    """Where two stages want the same size, the very object goes on, whatever it is."""
    boundary = Regroup(4, 2, 2)
    payload = object()

    (batch,) = boundary.add([2, 3], Part(payload, 2, 0, 2))

    assert gather(batch.parts, CUT_AND_JOIN) is payload
