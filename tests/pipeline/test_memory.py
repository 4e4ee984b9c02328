"""Memory that runs out: found once, remembered, and tried again later."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import weakref

import pytest
import torch

from micro_batch_handler import MicroBatchHandler
from micro_batch_handler.config import PerStage
from micro_batch_handler.pipeline import memory
from micro_batch_handler.pipeline.device.device_errors import is_out_of_memory
from micro_batch_handler.pipeline.memory import Ceiling
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import fake_context, plan, stages

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""


class Device:
    """A device with room for so many rows at once."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.calls: list[int] = []
        self.refused = 0

    def __call__(self, batch):
        self.calls.append(len(batch))
        if sum(row if isinstance(row, float) else 1 for row in batch) > self.capacity:
            self.refused += 1
            raise torch.OutOfMemoryError
        return list(batch)


@pytest.mark.parametrize("capacity", range(1, 33))
def test_memory_runs_out_a_few_times_and_then_no_more(capacity):
    """For any capacity all are answered, after O(log n) failures in the first batch and no more."""
    device = Device(capacity)

    with Pipeline(stages(inference=device), PerStage(1, 1, 1)) as pipeline:
        outcomes = [pipeline.run(list(range(32)), plan(32)) for _ in range(2)]

    assert [(list(range(32)), {})] * 2 == [(o.answers, o.failures) for o in outcomes]
    assert device.refused <= math.ceil(math.log2(32 / capacity))
    assert max(device.calls[len(device.calls) // 4 :]) <= capacity


def test_after_many_good_calls_a_larger_size_is_tried():
    """When memory is free again, the size grows back step by step."""
    device = Device(8)
    with Pipeline(stages(inference=device), PerStage(1, 1, 1)) as pipeline:
        pipeline.run(list(range(32)), plan(32))
        device.capacity = math.inf
        for _ in range(40 * memory.PATIENCE_CALLS):
            pipeline.run(list(range(32)), plan(32))
            if device.calls[-1] == 32:
                break

    assert device.calls[-1] == 32


def test_beside_others_a_good_call_lifts_no_limit():
    """It may have been under way when the other one failed."""
    ceiling = Ceiling(alone=False)
    ceiling.failed(4, first=True)
    ceiling.worked(4)

    assert ceiling.limit == 2


def test_beside_others_a_trial_has_failed_though_its_first_call_was_good():
    """The first call of a batch finds memory that the next does not; trials become rarer."""
    ceiling = Ceiling(alone=False)
    ceiling.failed(1, first=True)
    waits = []
    for _ in range(3):
        calls = 0
        while not ceiling.limit:
            ceiling.worked(0)
            calls += 1
        waits.append(calls)
        ceiling.worked(1)
        ceiling.failed(1, first=True)

    assert waits == [memory.PATIENCE_CALLS * factor for factor in (1, 2, 4)]


def test_a_try_that_fails_makes_the_next_one_rarer():
    """The more often the larger size has failed, the longer it is left alone."""
    ceiling = Ceiling()
    ceiling.failed(16, first=True)
    tries = []
    for call in range(20 * memory.PATIENCE_CALLS):
        rows = min(16, ceiling.limit)
        if rows > 8:
            tries.append(call)
            ceiling.failed(rows, first=True)
        else:
            ceiling.worked(rows)

    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert len(gaps) > 1
    assert gaps == sorted(gaps)
    assert gaps[-1] > gaps[0]


@pytest.mark.parametrize("size", [32, 8])
def test_a_request_that_does_not_fit_alone_fails_alone_and_holds_nobody_down(size):
    """A giant gets the error; after it, its neighbours still go many at a time."""
    device = Device(40)
    rows = [float(100) if index == 3 else index for index in range(32)]
    with Pipeline(stages(inference=device), PerStage(1, 1, 1)) as pipeline:
        first = pipeline.run(rows, plan(size))
        calls = len(device.calls)
        second = pipeline.run(list(range(32)), plan(size))

    assert {3} == first.failures.keys()
    assert isinstance(first.failures[3].error, torch.OutOfMemoryError)
    assert {} == second.failures
    assert [size] * (32 // size) == device.calls[calls:]


class Crowded(MicroBatchHandler):
    """Its device has room for the rows of one call, from preprocess to postprocess."""

    thread_safe = True

    def initialize(self, context):
        self.lock = threading.Lock()
        self.held = self.refused = 0
        self.threads = set()
        self.refusal = threading.Event()

    def preprocess(self, data):
        with self.lock:
            if self.held:
                self.refused += 1
                self.refusal.set()
                raise torch.OutOfMemoryError
            self.held += len(data)
        return [row["body"] for row in data]

    def inference(self, batch):
        self.threads.add(threading.current_thread())
        if threading.current_thread() is not threading.main_thread():
            assert self.refusal.wait(GATE_S)  # of the next call, beside this one
        return batch

    def postprocess(self, outputs):
        with self.lock:
            self.held -= len(outputs)
        return outputs


def test_where_no_two_calls_fit_beside_each_other_batches_stay_whole():
    """Each batch is answered; soon no call is made beside another, and none is refused."""
    handler = Crowded()
    section = {"micro_batch_size": 2, "stage_timeout": None}
    handler.initialize(fake_context(1, batch_size=8, model_yaml={"micro_batching": section}))
    try:
        for batch in range(8):
            handler.threads.clear()
            handler.refusal.clear()
            refused = handler.refused
            rows = [8 * batch + row for row in range(8)]
            assert handler.handle([{"body": row} for row in rows], fake_context(8)) == rows
    finally:
        handler.close()

    assert handler.refused == refused
    assert handler.threads == {threading.main_thread()}


def test_what_the_failed_call_held_is_free_before_the_next():
    """The traceback of the first attempt no longer pins its tensors when the halves are called."""

    class Held:
        pass

    alive = []
    held = []

    def inference(batch):
        alive.append(sum(ref() is not None for ref in held))
        big = Held()
        held.append(weakref.ref(big))
        if len(batch) > 4:
            error = MemoryError()
            pinned = [big, error]  # the frame, the error and its traceback now hold one another
            raise pinned[1]
        return batch

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(16)), plan(16))

    assert {} == outcomes.failures
    assert {0} == set(alive)


def test_without_failures_there_is_no_limit():
    """A ceiling that was never hit bounds nothing and says so."""
    ceiling = Ceiling()
    ceiling.worked(1000)

    assert sys.maxsize == ceiling.limit
    assert repr(ceiling) == "<Ceiling none>"
    ceiling.failed(16, first=True)
    assert repr(ceiling) == "<Ceiling 8>"


def coded(code):
    """An error as PyTorch raises it for this code of the runtime's."""
    error = torch.AcceleratorError("CUDA error: as its number says")
    error.error_code = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (coded(2), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (coded(710), False),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("my cache is out of memory"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_runs_out_is_known_whoever_asked_for_it(error, expected):
    """PyTorch's allocator, the runtime and the libraries each say it in their own way."""
    assert is_out_of_memory(error) == expected
