"""Memory that workers share with the model host: page-locked, and read by the device later."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from micro_batch_handler.hosting.shared_memory import SharedMemory

LATE_MS = 200.0
SIZE_BYTES = 2**24


@pytest.fixture
def shared():
    """Shared memory, and its address."""
    memory = SharedMemory.create(SIZE_BYTES)
    yield memory, int(np.frombuffer(memory.view, np.uint8).ctypes.data)
    memory.close()


def test_locked_memory_is_read_when_the_device_comes_to_it(bench, shared):
    """Tensors in it are pinned; a copy waits for nothing, and sees what is there when it comes."""
    memory, address = shared
    device = bench.accelerator
    rows = torch.frombuffer(memory.view, dtype=torch.float32)[1024:]
    rows.fill_(1)
    assert not rows.is_pinned()

    assert device.lock_pages(address, memory.size_bytes)
    assert rows.is_pinned()
    bench.sleep(LATE_MS)
    copy = device.upload(rows, wait=False)
    done = device.event()
    done.record(device.current_stream())
    waited = done.query()
    rows.fill_(2)
    done.synchronize()

    assert not waited
    assert copy.unique().tolist() == [2.0]
    device.unlock_pages(address)
    assert not rows.is_pinned()


def test_memory_that_is_not_locked_is_read_before_the_call_returns(bench, shared):
    """What the host does where the system refuses to lock pages: it waits for each copy."""
    memory, _ = shared
    rows = torch.frombuffer(memory.view, dtype=torch.float32)
    rows.fill_(1)

    copy = bench.accelerator.upload(rows, wait=True)
    rows.fill_(2)

    assert copy.unique().tolist() == [1.0]


def test_a_refusal_to_lock_spoils_no_kernel(bench):
    """The error of the refusal does not come up in what the same thread does next."""
    assert not bench.accelerator.lock_pages(0, 4096)

    assert (torch.ones(3, device=bench.device) + 1).tolist() == [2.0] * 3


def test_what_waiting_for_an_event_costs(bench, note):
    """The processor's time of a thread that waits; by default it would be all of it."""
    figures = {}
    for name, event in (
        ("asleep", bench.accelerator.event()),
        ("by default", torch.cuda.Event(enable_timing=True)),
    ):
        bench.sleep(LATE_MS)
        event.record(bench.accelerator.current_stream())
        began_s = time.thread_time()
        event.synchronize()
        figures[f"{name}, ms"] = round(1000 * (time.thread_time() - began_s), 2)
        assert event.query()
    note(f"Processor's time of a thread that waits {LATE_MS:g} ms for an event", **figures)
