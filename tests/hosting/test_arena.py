"""Memory that two processes share, and who gets which part of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from micro_batch_handler.errors import ArenaTooSmall, ConfigError, MicroBatchError
from micro_batch_handler.hosting.arena import Arena, Slot, mark_running
from micro_batch_handler.hosting.shared_memory import SharedMemory
from tests.fakes import GateClock, ManualClock

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""

HEADER_BYTES = 4096

MAPS = Path("/proc/self/maps")

ON_LINUX = pytest.mark.skipif(not MAPS.exists(), reason="reads /proc")


@pytest.fixture
def clock():
    return GateClock()


def child(code: str, *arguments: object, fds=()) -> subprocess.Popen:
    """Another Python process, which inherits these descriptors."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE)


def mapped() -> int:
    """How many pieces of shared memory this process has mapped."""
    return MAPS.read_text(encoding="utf-8").count("memfd:micro_batch_handler")


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture(params=["memfd", "file"])
def either_kind(request, monkeypatch):
    """With memfd_create, and as on a system without."""
    if request.param == "file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif not hasattr(os, "memfd_create"):
        pytest.skip("no memfd here")


def test_two_processes_see_the_same_bytes(either_kind):
    """What one writes, the other reads, both ways."""
    shared = SharedMemory.create(5000)
    shared.view[:5] = b"hello"
    code = """if True:
        import sys
        from micro_batch_handler.hosting.shared_memory import SharedMemory
        shared = SharedMemory.attach(int(sys.argv[1]), 5000)
        assert shared.size_bytes == len(shared.view) == 5000
        shared.view[4990:4995] = bytes(shared.view[:5]).upper()
    """

    with child(code, shared.fd, fds=[shared.fd]) as process:
        pass

    assert process.returncode == 0
    assert bytes(shared.view[4990:]) == b"HELLO" + bytes(5)


def test_memory_has_no_name(either_kind, tmp_path, monkeypatch):
    """No folder has an entry for it, so nothing can be left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    shared = SharedMemory.create(100)

    assert os.fstat(shared.fd).st_nlink == 0
    assert not list(tmp_path.iterdir())


@ON_LINUX
def test_memory_outlives_a_killed_process_and_then_ends():
    """After SIGKILL of its maker, the other process still has the bytes, and frees them."""
    mine, other = socket.socketpair()
    code = """if True:
        import socket, sys
        from micro_batch_handler.hosting.shared_memory import SharedMemory
        shared = SharedMemory.create(100)
        shared.view[:4] = b"here"
        door = socket.socket(fileno=int(sys.argv[1]))
        socket.send_fds(door, [b"."], [shared.fd])
        door.recv(1)
    """
    with mine, other, child(code, other.fileno(), fds=[other.fileno()]) as maker:
        _, (fd,), _, _ = socket.recv_fds(mine, 1, 1)
        maker.send_signal(signal.SIGKILL)
    before = mapped()

    shared = SharedMemory.attach(fd, 100)

    assert maker.returncode == -signal.SIGKILL
    assert bytes(shared.view[:4]) == b"here"
    assert os.fstat(fd).st_nlink == 0
    assert mapped() == before + 1
    shared.close()
    assert mapped() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@ON_LINUX
@pytest.mark.parametrize(
    "use",
    [
        lambda view: np.frombuffer(view, np.uint8),
        lambda view: torch.frombuffer(view, dtype=torch.uint8),
        lambda view: torch.frombuffer(view[10:20], dtype=torch.uint8),
        lambda view: view[10:20],
    ],
)
def test_closing_waits_for_what_lies_in_the_memory(use):
    """An array or tensor in closed memory can be read; the last one unmaps it."""
    before = mapped()
    shared = SharedMemory.create(100)
    shared.view[:] = bytes([7]) * 100
    used = use(shared.view)

    shared.close()
    shared.close()

    assert len(shared.view) == 0
    assert used[3] == 7
    assert mapped() == before + 1
    del used
    assert mapped() == before


@pytest.mark.parametrize("size_bytes", [2**62, 2**70, 0, -1])
def test_memory_that_the_system_refuses_is_a_setting_to_change(size_bytes):
    """The error names the key and the number of bytes, and no descriptor is left open."""
    before = open_descriptors()

    with pytest.raises(ConfigError, match=f"no {size_bytes} bytes.*pinned_bytes"):
        SharedMemory.create(size_bytes)

    assert open_descriptors() == before


def test_memory_that_is_smaller_than_said_is_refused():
    """A process never maps more than there is, which would kill it when it reads there."""
    fd = os.dup(SharedMemory.create(100).fd)

    with pytest.raises(ConfigError):
        SharedMemory.attach(fd, 101)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@given(st.lists(st.one_of(st.integers(0, 3000), st.integers(-8, -1)), max_size=40))
def test_slots_never_overlap_and_all_space_comes_back(steps):
    """After any order of takes and returns, the first gap that fits is used, and none is lost."""
    clock = ManualClock()
    arena = Arena(8192, tickets=6)
    held: list[Slot] = []
    for step in steps:
        if step < 0:
            if held:
                arena.give_back(held.pop(step % len(held)))
            continue
        starts = [HEADER_BYTES, *(slot.start + slot.size_bytes for slot in held)]
        fits = [
            start
            for start in starts
            if start + step <= arena.shared.size_bytes
            and all(
                start + step <= slot.start or start >= slot.start + slot.size_bytes
                for slot in held
                if slot.size_bytes
            )
        ]
        if (not fits and step) or len(held) == 6:
            with pytest.raises(TimeoutError):
                arena.take(step, 0, clock)
            continue
        slot = arena.take(step, 0, clock)
        assert slot.start == (min(fits) if step else HEADER_BYTES)
        assert 0 <= slot.size_bytes - step < 256
        assert slot.start % 256 == 0
        held.append(slot)
        assert len({slot.ticket for slot in held}) == len(held)
    for slot in held:
        arena.give_back(slot)

    assert arena.take(8192, 0, clock)[1:] == (HEADER_BYTES, 8192)


def test_a_size_is_what_payloads_get():
    """The header comes on top of the size, which is rounded up, so that all of it can be taken."""
    arena = Arena(1000)

    assert arena.take(1000, 0, ManualClock()).size_bytes == 1024
    assert arena.shared.size_bytes == HEADER_BYTES + 1024


def in_thread(results: list, work) -> threading.Thread:
    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            results.append(type(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_call_waits_until_space_is_given_back(clock):
    """Who finds none gets it as soon as another gives it back."""
    arena = Arena(1024)
    first = arena.take(1000, 10, clock)
    clock.waits.acquire()
    found: list = []
    thread = in_thread(found, lambda: arena.take(300, 10, clock))
    assert clock.waits.acquire(timeout=GATE_S)
    assert not found

    arena.give_back(first)
    thread.join(GATE_S)

    assert [slot[1:] for slot in found] == [(HEADER_BYTES, 512)]


def test_a_large_call_is_not_passed_over(clock):
    """A small one that would fit waits behind a large one, and goes on when that gives up."""
    arena = Arena(1024)
    arena.take(512, 10, clock)
    clock.waits.acquire()
    large: list = []
    small: list = []
    first = in_thread(large, lambda: arena.take(1024, 10, clock))
    assert clock.waits.acquire(timeout=GATE_S)
    second = in_thread(small, lambda: arena.take(256, 20, clock))
    assert clock.waits.acquire(timeout=GATE_S)
    with pytest.raises(TimeoutError):
        arena.take(256, 0, clock)
    assert not small

    clock.advance(10)
    first.join(GATE_S)
    second.join(GATE_S)

    assert large == [TimeoutError]
    assert [slot[1:] for slot in small] == [(HEADER_BYTES + 512, 256)]


def test_a_wait_that_is_interrupted_leaves_nothing_behind(clock):
    """An alarm in the wait takes the call out of the queue, and its slot back."""

    class Alarm(BaseException):
        pass

    class Rings(ManualClock):
        def wait(self, event, until_s=None):
            raise Alarm

    arena = Arena(1024)
    with pytest.raises(Alarm):
        arena.take(1024, 1, Rings())
    held = arena.take(1024, 0, clock)
    with pytest.raises(Alarm):
        arena.take(1024, 1, Rings())
    arena.give_back(held)

    assert arena.take(1024, 0, clock).size_bytes == 1024


def test_space_that_comes_just_too_late_goes_to_the_next(clock):
    """A slot that was granted when the time was over is not lost."""
    arena = Arena(1024)
    held = arena.take(1024, 0, clock)

    class Late(ManualClock):
        def wait(self, event, until_s=None):
            arena.give_back(held)
            return False

    with pytest.raises(TimeoutError, match="1024 of 1024 bytes"):
        arena.take(1024, 0, Late())

    assert arena.take(1024, 0, clock).size_bytes == 1024


def test_tickets_limit_the_calls_in_flight(clock):
    """Without a free ticket a call waits, though it needs no space."""
    arena = Arena(1024, tickets=2)
    full = arena.take(1024, 0, clock)
    none = arena.take(0, 0, clock)
    with pytest.raises(TimeoutError):
        arena.take(0, 0, clock)

    arena.give_back(none)

    assert arena.take(0, 0, clock) == Slot(none.ticket, HEADER_BYTES, 0)
    assert full.ticket != none.ticket


def test_a_host_marks_the_call_that_the_model_gets(clock):
    """Only that call is running, and the next with its ticket is not, nor is a payload touched."""
    arena = Arena(1024, tickets=2)
    one, two = arena.take(256, 0, clock), arena.take(256, 0, clock)
    with_host = SharedMemory.attach(os.dup(arena.shared.fd), arena.shared.size_bytes)

    mark_running(with_host.view, two.ticket, runs=True)

    assert [arena.running(one), arena.running(two)] == [False, True]
    assert not any(arena.shared.view[HEADER_BYTES:])
    arena.give_back(two)
    again = arena.take(256, 0, clock)
    assert again.ticket == two.ticket
    assert not arena.running(again)


def test_a_call_that_can_never_fit_is_refused_at_once(clock):
    """It is a lack of memory to TorchServe; the message has both sizes and says what to change."""
    arena = Arena(1024)

    with pytest.raises(ArenaTooSmall, match=r"2500000 bytes \(2.5 MB\).*1024 bytes") as raised:
        arena.take(2_500_000, None, clock)

    assert isinstance(raised.value, MemoryError)
    assert isinstance(raised.value, MicroBatchError)
    assert "raise micro_batching.device.pinned_bytes or lower micro_batch_size" in str(raised.value)
    with pytest.raises(ArenaTooSmall):
        arena.take(1025, None, clock)


@pytest.mark.parametrize("size_bytes", [0, 256])
def test_a_slot_is_given_back_once(clock, size_bytes):
    """A second time is an error, since another call may have it by then."""
    arena = Arena(1024)
    slot = arena.take(size_bytes, 0, clock)
    arena.give_back(slot)

    with pytest.raises(ValueError, match="not taken"):
        arena.give_back(slot)


@pytest.mark.parametrize("tickets", [0, 4097])
def test_tickets_fit_into_the_header(tickets):
    """More than a page of them would lie in the payloads."""
    with pytest.raises(ValueError, match="tickets"):
        Arena(1024, tickets)


def test_many_threads_never_see_the_bytes_of_another(quick_turns):
    """Each finds what it wrote into its slot, and afterwards all space is free."""
    arena = Arena(4096, tickets=4)
    clock = ManualClock()
    spoiled: list = []

    def work(mark: int) -> None:
        for turn in range(60):
            slot = arena.take((turn * 37 * mark) % 4097, 1, clock)
            place = arena.shared.view[slot.start : slot.start + slot.size_bytes]
            place[:] = bytes([mark]) * slot.size_bytes
            if bytes(place) != bytes([mark]) * slot.size_bytes:
                spoiled.append(slot)
            arena.give_back(slot)

    results: list = []
    threads = [in_thread(results, lambda mark=mark: work(mark)) for mark in range(1, 9)]
    for thread in threads:
        thread.join(GATE_S)

    assert results == [None] * 8
    assert not spoiled
    assert arena.take(4096, 0, clock).size_bytes == 4096
