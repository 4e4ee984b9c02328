"""Each wait, each hold and each step of the hand-over is needed: without it, some seed fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.pipeline.device_mistakes import MISTAKES, name_of
from tests.pipeline.device_traffic import (
    Traffic,
    problems,
    problems_after_a_failure,
    problems_of_release,
    problems_when_lost,
    problems_without_event,
)

pytestmark = pytest.mark.usefixtures("quick_turns")

SEEDS = 240


def traffics() -> Iterator[Traffic]:
    """First one in which failed calls write to what they took in, then any."""
    for seed in range(12):
        yield Traffic(
            seed,
            sizes=(2, 2, 1),
            batches=3,
            rows=9,
            inference="in place",
            fault="always",
            fault_row=3,
        )
    for seed in range(SEEDS):
        yield Traffic.drawn(seed)


def wrong_answers() -> list[str]:
    """The first wrong answers, if there are any."""
    if found := problems_after_a_failure():
        return found
    for traffic in traffics():
        found = problems(replace(traffic, timed=False))
        if wrong := [problem for problem in found if " instead of [" in problem]:
            return wrong
    return []


def anything_wrong() -> list[str]:
    """What goes wrong first, be it only that something is never given back."""
    for traffic in traffics():
        if found := problems(traffic):
            return found
    return problems_of_release() or problems_without_event() or problems_when_lost()


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.wrong_answers], ids=name_of)
def test_with_the_mistake_an_answer_is_wrong(mistake):
    """Each wait, hold, event and host synchronisation stands between clients and wrong answers."""
    with mistake.planted():
        assert wrong_answers()


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if not m.wrong_answers], ids=name_of)
def test_with_the_mistake_something_is_lost(mistake):
    """Every other step of the hand-over is needed too: for memory, buffers, streams or times."""
    with mistake.planted():
        assert anything_wrong()


def test_without_a_mistake_nothing_fails():
    """The hand-over passes everything that a mistake makes it fail."""
    assert not wrong_answers()
    assert not anything_wrong()
