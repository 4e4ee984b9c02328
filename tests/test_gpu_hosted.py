"""The checks of tests/gpu/test_hosted.py, with workers that compute on the CPU."""

from __future__ import annotations

import pytest

from tests.gpu.hosted import ROWS, HostedWorker, expected, largest_differences

NEARLY = 0.02
"""Threads of a CPU add up in other orders than one."""


@pytest.mark.parametrize(
    ("section", "settings"),
    [({}, {}), ({"allowed_sizes": [1, 2, 4, ROWS]}, {"graphs": [1, 2, 4, ROWS]})],
    ids=["plain", "allowed sizes"],
)
def test_answers_through_the_host_are_those_without_it(tmp_path, section, settings):
    """All types come through, also in calls that are filled up."""
    right = expected(range(ROWS), None)

    with HostedWorker(tmp_path, None, section, settings) as worker:
        for rows in (ROWS, 3, 1):
            found = largest_differences(worker.answers(range(rows)), right[:rows])
            assert max(found.values()) < NEARLY


def test_a_killed_host_costs_no_answer(tmp_path):
    """The next batch is answered, right, by a new host."""
    right = expected(range(ROWS), None)

    with HostedWorker(tmp_path, None) as worker:
        worker.answers(range(ROWS))
        old = worker.kill_host()
        found = largest_differences(worker.answers(range(ROWS)), right)
        assert max(found.values()) < NEARLY
        assert worker.host().pid != old


def test_a_wrong_answer_is_seen():
    """The check tells one row's answer from another's, in each type."""
    right = expected(range(2), None)

    assert min(largest_differences(right[::-1], right).values()) > NEARLY
