"""PyTorch's threads inside calls, while workers come and go."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from micro_batch_handler.config import PerStage
from micro_batch_handler.torchserve.call_threads import RECOUNT_S, CallThreads
from tests.fakes import ManualClock

pytestmark = pytest.mark.usefixtures("as_before")

AUTO = PerStage("auto", "auto", "auto")
CORES = 4


class Lane:
    """A thread that makes calls of one stage, one after the other."""

    def __init__(self, threads, stage):
        self._threads = threads
        self._pool = ThreadPoolExecutor(1, initializer=threads.lane_setup(None), initargs=(stage,))

    def call(self):
        """PyTorch's threads inside a call."""
        return self._pool.submit(self._call).result(30)

    def _call(self):
        self._threads.use()
        return torch.get_num_threads()


@pytest.fixture
def workers():
    """How many workers there are, in a list of one."""
    return [1]


@pytest.fixture
def shared(workers):
    """The threads of a worker with so many others, on four cores, and the clock."""
    torch.set_num_threads(CORES)
    clock = ManualClock()
    lanes = PerStage(1, 1, 1)
    return CallThreads(AUTO, lanes, CORES, lambda: workers[0], clock.now_s), clock


@pytest.mark.parametrize(("count", "share"), [(2, 2), (4, 1), (9, 1)])
def test_workers_that_come_later_get_their_share(count, share, shared, workers):
    """Of the lane of inference and of whole batches; and it is given back when they go."""
    threads, clock = shared
    lane = Lane(threads, "inference")
    assert (lane.call(), torch.get_num_threads()) == (CORES, CORES)

    for workers[0], expected in ((count, share), (1, CORES)):
        clock.advance(RECOUNT_S)
        threads.recount()
        threads.use()

        assert (lane.call(), torch.get_num_threads()) == (expected, expected)


def test_workers_are_counted_now_and_then_only(shared, workers):
    """Counting takes time, and a batch waits for it."""
    threads, clock = shared
    workers[0] = 2

    clock.advance(RECOUNT_S - 0.1)
    threads.recount()
    assert threads.now.lanes.inference == CORES
    clock.advance(0.2)
    threads.recount()
    assert threads.now.lanes.inference == CORES // 2


def test_a_lane_of_another_stage_has_one_thread(shared):
    """Preprocess and postprocess compute little with PyTorch."""
    threads, _ = shared

    assert Lane(threads, "preprocess").call() == 1


def test_no_other_thread_is_changed(shared):
    """On Ray Serve calls come in threads of the server."""
    threads, _ = shared
    seen = []

    def call():
        torch.set_num_threads(3)
        threads.use()
        seen.append(torch.get_num_threads())

    other = threading.Thread(target=call)
    other.start()
    other.join()

    assert seen == [3]


def test_a_handler_that_has_set_fewer_keeps_them(workers):
    """`auto` gives no more than the handler has set when it loads."""
    torch.set_num_threads(2)

    threads = CallThreads(AUTO, PerStage(1, 1, 1), CORES, lambda: workers[0])

    assert (threads.now.lanes.inference, threads.now.whole) == (2, 2)
