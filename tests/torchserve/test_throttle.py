"""Something that is done at once, but not more often than every so often."""

from __future__ import annotations

import threading

import pytest

from micro_batch_handler.torchserve.metrics.throttle import Throttle


class Stage:
    """A clock and what it has to call later."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.done_at: list[float] = []
        self.later: list[tuple[float, object]] = []
        self.no_threads = False
        self.throttle = Throttle(
            lambda: self.done_at.append(self.now_s),
            every_s=2.0,
            now_s=lambda: self.now_s,
            later=self._call_later,
        )

    def _call_later(self, seconds, do) -> None:
        if self.no_threads:
            raise RuntimeError("can't start new thread")
        self.later.append((self.now_s + seconds, do))

    def at(self, now_s: float, asks: int = 1) -> None:
        """Let the time come, call what is due, and ask."""
        while self.later and self.later[0][0] <= now_s:
            self.now_s, do = self.later.pop(0)
            do()
        self.now_s = now_s
        for _ in range(asks):
            self.throttle.ask()


@pytest.fixture
def stage():
    return Stage()


def test_rare_asks_are_met_at_once(stage):
    """Who asks no more often than that waits for nothing."""
    for now_s in (100, 102, 107):
        stage.at(now_s)

    assert stage.done_at == [100, 102, 107]
    assert not stage.later


def test_asks_that_come_too_early_are_met_together(stage):
    """None is forgotten, and all of them are met once, as soon as may be."""
    stage.at(100, asks=3)
    stage.at(101, asks=3)
    stage.at(103.5)
    stage.at(110, asks=0)

    assert stage.done_at == [100, 102, 104]


def test_after_a_late_one_the_next_waits_as_long(stage):
    """The pace counts from what was done last, early or late."""
    stage.at(100, asks=2)
    stage.at(103)

    assert stage.done_at == [100, 102]
    assert stage.later[0][0] == 104


def test_where_no_thread_can_be_started_it_is_done_at_once(stage):
    """Who asks gets no error of it, and nothing stays undone."""
    stage.no_threads = True
    stage.at(100, asks=3)

    assert stage.done_at == [100, 100, 100]


def test_what_is_late_is_done_in_a_thread_that_holds_nobody_up():
    """By itself, and daemonic: a worker that ends does not wait for it."""
    threads, done = [], threading.Event()

    def do():
        threads.append(threading.current_thread())
        if len(threads) > 1:
            done.set()

    throttle = Throttle(do, every_s=0.01)
    throttle.ask()
    throttle.ask()

    assert done.wait(30)
    assert threads[0] is threading.current_thread()
    assert threads[1].daemon
