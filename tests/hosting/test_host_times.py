"""The times of host calls, as members are told of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from micro_batch_handler.hosting.merging import Asked, Made
from tests.hosting.hosts import Model, rows


class At:
    """A clock that stands."""

    now = 10.0

    def now_s(self):
        return self.now


@pytest.mark.parametrize(
    ("device_s", "times_s"),
    [
        (2.0, (8.0, 10.0)),
        (20.0, (1.0, 10.0)),
        (None, (1.0, 1.5)),
    ],
)
def test_a_host_call_has_the_times_of_its_device(device_s, times_s):
    """Its work ends when it was waited for; without a device the times are Python's."""
    made = Made(12, 3, (1.0, 1.5), lambda: device_s, At())

    call = made.told(0.5, None, first=True)

    assert (call.began_s, call.ended_s) == times_s
    assert (call.rows, call.parts, call.first, call.came_s) == (12, 3, True, 0.5)


def test_all_questions_of_a_host_call_are_told_the_same_times():
    """However late they ask, the device is waited for once: so members know it is one call."""
    clock, waits = At(), []
    made = Made(12, 3, (1.0, 1.5), lambda: waits.append(None) or 2.0, clock)
    one = made.told(0.5, None, first=True)
    clock.now = 11.0
    other = made.told(0.6, None, first=False)

    assert (one.began_s, one.ended_s) == (other.began_s, other.ended_s)
    assert len(waits) == 1


def test_a_question_knows_the_host_calls_of_both_stages():
    """The last one has the one before it."""
    asked = Asked(SimpleNamespace(rows=4), 0.5, lambda: None)
    asked.passed += [
        (Made(4, 1, (1.0, 2.0), lambda: None, At()), True),
        (Made(8, 2, (3.0, 5.0), lambda: None, At()), False),
    ]

    call = asked.host_call()

    assert (call.rows, call.first, call.waited_s) == (8, False, 1.0)
    assert (call.before.rows, call.before.first, call.before.waited_s) == (4, True, 0.5)


def test_members_are_told_which_of_them_counts_a_host_call(town):
    """One question is the first part of each host call."""
    town.host(Model())

    found = [town.member().ask(rows(1.0)).call for _ in range(2)]

    assert [(call.rows, call.parts, call.first) for call in found] == [(1, 1, True)] * 2
    assert all(call.came_s <= call.began_s <= call.ended_s for call in found)
