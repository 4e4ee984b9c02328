"""Which questions share a host call, and in which order they are taken."""

from __future__ import annotations

import sys
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_batch_handler.hosting.kinds import kind_of
from micro_batch_handler.hosting.merging import Asked, Item, WaitingItems
from micro_batch_handler.hosting.messages import Failed, Question
from micro_batch_handler.pipeline.micro_batch import Part
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps
from tests.hosting.hosts import passed, rows


def item(name="", *, number=1, kind="a", group=0, merges=True, most_rows=64) -> Item:
    question = Question(
        number, kind, group, merges, False, most_rows, b"", [], 0, (0, 0), None, name
    )
    asked = Asked(question, 0.0, lambda _runs: None)
    return Item([asked], Part(name, number, 0, number), kind)


def taken(*items: Item, most_rows=sys.maxsize) -> list[str]:
    """What waits, call after call, each as the names of its items."""
    waiting = WaitingItems()
    for each in items:
        waiting.add(each)
    calls = []
    while len(waiting):
        calls.append("".join(each.part.payload for each in waiting.take(lambda: most_rows)))
    return calls


def test_all_that_wait_share_a_call_in_their_order():
    """What is of one kind goes together, the oldest first."""
    assert taken(item("A"), item("B"), item("C")) == ["ABC"]


def test_kinds_share_no_call_and_the_oldest_goes_first():
    """Others of the oldest one's kind are taken with it; the rest keep their order."""
    items = [item("A"), item("B", kind="b"), item("C"), item("D", kind="b"), item("E", kind="e")]

    assert taken(*items) == ["AC", "BD", "E"]


def test_groups_share_no_call():
    """What failed together and was told apart is not joined again, nor with what is new."""
    items = [item("A", group=1), item("B", group=2), item("C"), item("D", group=1)]

    assert taken(*items) == ["AD", "B", "C"]


def test_what_must_not_be_merged_is_called_alone():
    """Neither does it take others with it, nor do others take it."""
    items = [item("A"), item("B", merges=False), item("C"), item("D", merges=False)]

    assert taken(*items) == ["AC", "B", "D"]


def test_a_call_has_no_more_rows_than_any_of_its_questions_allows():
    """The least limit counts; a smaller question behind one that does not fit is taken."""
    items = [
        item("A", number=4, most_rows=16),
        item("B", number=8, most_rows=10),
        item("C", number=4, most_rows=8),
        item("D", number=8, most_rows=16),
    ]

    assert taken(*items) == ["AC", "BD"[:1], "D"]


def test_a_call_has_no_more_rows_than_fit_the_memory():
    """But the oldest question is taken however large it is."""
    items = [item("A", number=8), item("B"), item("C"), item("D"), item("E")]

    assert taken(*items, most_rows=2) == ["A", "BC", "DE"]


ITEMS = st.builds(
    dict,
    number=st.integers(1, 6),
    kind=st.sampled_from("ab"),
    group=st.sampled_from([0, 0, 1]),
    merges=st.booleans(),
    most_rows=st.integers(1, 12),
)


@given(st.lists(st.lists(ITEMS, max_size=4), min_size=1, max_size=12), st.integers(0, 12))
def test_nothing_starves_and_no_rule_is_broken(rounds, most_rows):
    """The oldest of all that waits is in each call, whatever else comes meanwhile."""
    waiting, expected = WaitingItems(), deque()
    for new in [*rounds, *[[]] * 60]:
        for how in new:
            each = item(**how)
            waiting.add(each)
            expected.append(each)
        if not expected:
            continue
        call = waiting.take(lambda: most_rows)
        assert call[0] is expected[0]
        assert call == [each for each in expected if each in call]
        questions = [each.asked[0].question for each in call]
        if len(call) > 1:
            assert len({(each.kind, each.group) for each in questions}) == 1
            assert all(each.merges for each in questions)
            assert sum(each.rows for each in call) <= min(
                most_rows, *(each.most_rows for each in questions)
            )
        for each in call:
            expected.remove(each)
    assert not len(waiting)


def test_the_first_outcome_counts():
    """A question that was settled stays so."""
    asked = item().asked[0]
    first, second = Failed(b"1", "inference", None), Failed(b"2", "inference", None)

    asked.settle(first)
    asked.settle(second)

    assert asked.outcome is first


OPAQUE = {1, 2}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1], ["a", "b"], True),
        (torch.ones(1, 3), torch.ones(5, 3), True),
        (torch.ones(1, 3), torch.ones(1, 4), False),
        (torch.ones(1, 3), torch.ones(1, 3, dtype=torch.float64), False),
        (torch.ones(2, 3), np.ones((2, 3), np.float32), False),
        (np.ones((1, 3)), np.ones((5, 3)), True),
        (np.ones((1, 3)), np.ones((1, 3), np.float32), False),
        (np.ones((1, 3)), np.ones((1, 4)), False),
        ({"ids": [1], "length": 7}, {"ids": [2, 3], "length": 7}, True),
        ({"ids": [1], "length": 7}, {"ids": [1], "length": 8}, False),
        ({"ids": [1], "length": 1}, {"ids": [1], "length": True}, False),
        ({"ids": [1]}, {"words": [1]}, False),
        (([1], torch.ones(1)), ([2], torch.ones(1)), True),
        (([1], torch.ones(1)), ([2], [1]), False),
        (deque([1]), deque([1], 5), False),
        ([1], deque([1]), False),
        (torch.tensor(1.0), torch.tensor(1.0), False),
        (OPAQUE, OPAQUE, False),
        ({"ids": [1], "odd": object()}, {"ids": [1], "odd": object()}, False),
        ({"ids": [1], "loss": torch.tensor(1.0)}, {"ids": [1], "loss": torch.tensor(1.0)}, True),
        ({"ids": [1], "loss": torch.tensor(1.0)}, {"ids": [1], "loss": torch.tensor(2.0)}, False),
    ],
)
def test_payloads_of_one_kind_can_be_joined(one, other, same):
    """Their kinds are equal where joining works, and differ where it cannot."""
    assert (kind_of(one, CUT_AND_JOIN) == kind_of(other, CUT_AND_JOIN)) is same
    if same:
        CUT_AND_JOIN.join([one, other])


def test_payloads_of_a_handlers_own_hooks_are_of_one_kind():
    """Only its hook knows what can be joined."""
    ops = PayloadOps(lambda _: None, lambda _: None, CUT_AND_JOIN.cut, CUT_AND_JOIN.join)

    assert kind_of(OPAQUE, ops) == kind_of([1], ops)


def test_what_comes_while_a_call_runs_joins_the_next(town):
    """The oldest question is called at once, alone; all that wait when it ends go together."""
    host = town.host()
    model = host.lanes[0].model
    model.holds = 1
    members = [town.member() for _ in range(3)]
    questions = [members[0].asking(rows(0), "A")]
    passed(model.began)
    passed(host.came)
    for at, name in enumerate("BCDE", 1):
        questions.append(members[at % 3].asking(rows(at, at), name))
        passed(host.came)
    model.let_go()

    found = [each.told() for each in questions]

    assert [[name for name, _ in call] for call in model.calls] == [["A"], list("BBCCDDEE")]
    for at, told in enumerate(found):
        assert told.result[:, 0].tolist() == [2.0 * at] * (1 if not at else 2)
    calls = [told.call for told in found]
    assert [(call.rows, call.parts, call.first) for call in calls] == [
        (1, 1, True),
        (8, 4, True),
        *[(8, 4, False)] * 3,
    ]
    assert all(call.came_s <= call.began_s <= call.ended_s for call in calls)
