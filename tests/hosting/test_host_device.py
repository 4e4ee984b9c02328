"""The model host on a device whose work is done late: answers, memory, a device that is lost."""

from __future__ import annotations

import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.wait import until
from micro_batch_handler.errors import HostLost, HostMissing
from micro_batch_handler.hosting.arena import Arena
from micro_batch_handler.hosting.client import HostClient, RemoteFault, Rows
from micro_batch_handler.hosting.host import Host
from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.watch import Clock
from tests.pipeline.device_mistakes import MISTAKES, name_of
from tests.pipeline.fake_device import POISON, FakeDevice, FakeEvent, FakeTensor, Schedule

pytestmark = pytest.mark.usefixtures("quick_turns")

COLUMNS = 256
"""Of a row: 2 KiB, so that it goes through the shared memory."""

ARENA_BYTES = 1 << 18
"""Little, so that slots are used again at once."""

PATIENCE_S = 30.0
SHORT_S = 0.3
"""How long a member looks for another host, where there is none."""


class HostDevice(FakeDevice):
    """A fake device that copies from torch's tensors, and reads locked memory when it is late."""

    def __init__(self, schedule: Schedule, *, locks: bool = True, **more: Any) -> None:
        super().__init__(schedule, **more)
        self.locks = locks
        self.locked: dict[int, int] = {}
        self.problems: list[str] = []
        self.loses = False
        """Whether the device is lost, which the next copy out finds out."""
        self.reads_all = False
        """Whether it reads memory that is not locked by itself, and late, as some devices do."""

    def use_here(self) -> None:
        self.here.used = True

    def lock_pages(self, address: int, size_bytes: int) -> bool:
        if self.locks:
            self.locked[address] = size_bytes
        return self.locks

    def unlock_pages(self, address: int) -> None:
        self.finish()
        del self.locked[address]

    def is_on_host(self, leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor)

    def upload(self, leaf: Any, *, wait: bool) -> FakeTensor:
        if not getattr(self.here, "used", False):
            self.problems.append("a thread copies that is on another device")
        with self.call():
            copy = self._allocate(len(leaf))
            self._launch(self._reading(leaf), [], copy.span, "upload")
            if wait:
                self._wait_for_current()
        return copy

    def _reading(self, leaf: torch.Tensor) -> Callable[[], list[int]]:
        if self._is_locked(leaf):

            def read() -> list[int]:
                if not self._is_locked(leaf):
                    self.problems.append("memory is read that is locked no more")
                return self._values(leaf)

            return read
        if self.reads_all:
            rows, here = len(leaf), weakref.ref(leaf)
            return lambda: [POISON] * rows if (found := here()) is None else self._values(found)
        values = self._values(leaf)  # as the runtime does it, before the call returns
        return lambda: values

    def download(self, leaf: FakeTensor, place: FakeTensor) -> None:
        self.lost |= self.loses
        super().download(leaf, place)

    def fetch(self, leaf: FakeTensor) -> Any:
        return self._rows(super().fetch(leaf).values())

    def copy_of(self, place: FakeTensor) -> Any:
        return self._rows(self.read(place))

    def _is_locked(self, leaf: torch.Tensor) -> bool:
        start = leaf.data_ptr()
        return any(at <= start < at + size for at, size in tuple(self.locked.items()))

    @staticmethod
    def _values(leaf: torch.Tensor) -> list[int]:
        """Each row's number; POISON if something else was written to a part of it."""
        return [int(row[0]) if bool((row == row[0]).all()) else POISON for row in leaf]

    @staticmethod
    def _rows(values: list[int]) -> torch.Tensor:
        """Large, so that results go through the shared memory too."""
        return torch.tensor(values)[:, None].repeat(1, COLUMNS)


class Here:
    """Stands for the place where members meet: the host's socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    def connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return None
        return connection


class Stand:
    """A host in this process, and members that ask it."""

    def __init__(self, folder: Any, device: HostDevice, *, streams: bool = True) -> None:
        self._path: Path = folder / f"socket-{id(device)}"
        self.device = device
        self.streams = (
            Streams(device, copy_in=False, copy_out=True, pinned_bytes=1 << 16)
            if streams
            else NoStreams(None, device)
        )
        self.ops = PayloadOps(len, len, lambda payload, start, stop: payload[start:stop], self.join)
        self.fails = False
        self.calls = 0
        clock = Clock()
        self.lane = HostLane("inference", self.call, self.ops, self.streams, clock, lost=self.lost)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self.host = Host(self._listener)
        self.links: list[HostLink] = []
        self._threads = [
            threading.Thread(target=self._serve, daemon=True),
            threading.Thread(target=self.host.watch, args=(lambda: "", PATIENCE_S), daemon=True),
        ]

    def __enter__(self) -> Stand:  # noqa: PYI034  (typing.Self needs Python 3.11)
        self.host.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for link in self.links:
            link.close()
        self.host.end("the test is over")
        self.host.log.close()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink()
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def member(self) -> HostClient:
        """A member that has found the host."""
        arena = Arena(ARENA_BYTES)
        link = HostLink(Here(str(self._path)), lambda _place: None, arena.shared)  # type: ignore[arg-type]
        self.links.append(link)
        link.load()
        return HostClient(link, arena)

    def call(self, payload: FakeTensor, _contexts: Any) -> tuple[FakeTensor, None]:
        self.calls += 1
        assert not payload.on_host
        first = self.device.kernel(lambda values: [3 * value for value in values], payload)
        result = self.device.kernel(lambda values: [value + 1 for value in values], first)
        if self.fails:
            raise ValueError("as it must")
        return result, None

    def join(self, payloads: Any) -> FakeTensor:
        return self.device.kernel(
            lambda *parts: [value for part in parts for value in part],
            *payloads,
            rows=sum(map(len, payloads)),
        )

    def lost(self) -> None:
        self.host.end("the device is lost")

    def live_rows(self) -> int:
        """What somebody refers to on the device, once its work is done."""
        self.streams.release()
        return self.device.count_live_rows()

    def _serve(self) -> None:
        self.host.serve([self.lane], self.ops, self.streams, self.device, 0, copy_in=True)


def ask(
    member: HostClient,
    values: list[int],
    patience_s: float = PATIENCE_S,
    columns: int = COLUMNS,
) -> list[int]:
    """The answers to rows with these numbers."""
    payload = torch.tensor(values)[:, None].repeat(1, columns)
    rows = Rows(payload, len(values), "rows", True, 16, [None] * len(values))
    told = member.ask("inference", rows, Clock().now_s() + patience_s)
    return HostDevice._values(told.result)


def wrong_answers(folder: Any, seed: int, **device: Any) -> list[str]:
    """What goes wrong with the questions of three members, two at a time each."""
    found: list[str] = []

    def asking(member: HostClient, first: int) -> None:
        random = np.random.default_rng(first)
        for question in range(4):
            count = int(random.integers(1, 5))
            values = [first + 10 * question + row for row in range(count)]
            try:
                answers = ask(member, values)
            except (HostLost, HostMissing, RemoteFault) as error:
                found.append(repr(error))
                return
            if answers != [3 * value + 1 for value in values]:
                found.append(f"{answers} to {values}")

    with Stand(folder, HostDevice(Schedule(seed), **device)) as stand:
        members = [stand.member() for _ in range(3)]
        threads = [
            threading.Thread(target=asking, args=(member, 1000 * place + 100 * number))
            for place, member in enumerate(members, 1)
            for number in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with suppress(TimeoutError):
            until(lambda: not stand.live_rows(), "free memory", 5)
        if live_rows := stand.live_rows():
            found.append(f"{live_rows} rows are kept for ever")
        return found + stand.device.problems


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("locks", [True, False], ids=["locked", "not locked"])
def test_answers_are_right_however_late_the_device_is(tmp_path, seed, locks):
    """Members' rows are read, computed and answered right, and nothing stays on the device."""
    assert wrong_answers(tmp_path, seed, locks=locks) == []


SEEN = {
    "no stream waits",
    "no event is recorded",
    "copies out are not waited for",
    "nothing is kept",
    "events seem to have come",
    "nothing is copied out",
}
"""The mistakes of the pipeline's hand-over that the host could make too."""


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if m.name in SEEN], ids=name_of)
def test_with_the_mistake_an_answer_is_wrong(tmp_path, mistake):
    """Each wait and each hold stands between members and wrong answers."""
    with mistake.planted():
        assert any(wrong_answers(tmp_path, seed) for seed in range(48))


def test_memory_that_is_given_back_too_early_is_seen(tmp_path, monkeypatch):
    """An answer that leaves before the device has read the rows is wrong, in some schedule."""

    def overwritten(seed: int) -> list[int]:
        with Stand(tmp_path, HostDevice(Schedule(seed))) as stand:
            return ask(stand.member(), [1, 2])

    assert overwritten(0) == [4, 7]
    monkeypatch.setattr(FakeEvent, "synchronize", lambda _event: None)
    monkeypatch.setattr(FakeEvent, "elapsed_time", lambda _event, _later: 0.0)  # nor is it timed
    assert overwritten(0) != [4, 7]  # this schedule does only what somebody waits for


def test_small_rows_are_kept_until_they_are_copied(tmp_path):
    """They come with the question itself, and a device may read them there when it is late."""
    device = HostDevice(Schedule(0))
    device.reads_all = True
    with Stand(tmp_path, device) as stand:
        assert ask(stand.member(), [1, 2], columns=1) == [4, 7]


def test_results_are_tensors_of_the_host_without_streams(tmp_path):
    """`streams: false`: a member gets what it can load, and the device is waited for."""
    with Stand(tmp_path, HostDevice(Schedule(0)), streams=False) as stand:
        member = stand.member()

        assert ask(member, [1, 2, 3]) == [4, 7, 10]
        assert ask(member, [4]) == [13]


def test_a_failed_call_leaves_memory_alone_that_the_device_reads(tmp_path):
    """A member gets its error before its rows are copied, and leaves: its memory stays locked."""
    with Stand(tmp_path, HostDevice(Schedule(0))) as stand:
        stand.fails = True
        with pytest.raises(RemoteFault, match="as it must"):
            ask(stand.member(), [1, 2])

        stand.links[0].close()
        until(lambda: not stand.device.locked, "memory that is unlocked")

        assert stand.device.problems == []
        stand.fails = False
        assert ask(stand.member(), [5]) == [16]
        until(lambda: not stand.live_rows(), "free memory")


def test_a_lost_device_ends_the_host_and_no_member_hears_of_it(tmp_path):
    """The error comes up where a result is waited for; it is the host's, and may be any row's."""
    with Stand(tmp_path, HostDevice(Schedule(0))) as stand:
        first, second = stand.member(), stand.member()
        assert ask(first, [1]) == [4]
        stand.device.loses = True

        with pytest.raises(HostLost):
            ask(first, [2])

        assert "device is lost" in stand.host.why_over
        calls = stand.calls
        with pytest.raises(HostMissing):
            ask(second, [3], SHORT_S)
        assert stand.calls == calls
        assert stand.device.aborts == 0


def test_memory_that_runs_out_in_a_copy_is_freed(tmp_path):
    """The member hears of too little memory; what the host has cached is freed, and it goes on."""
    with Stand(tmp_path, HostDevice(Schedule(0))) as stand:
        member = stand.member()
        ask(member, [1, 2, 3, 4])
        stand.device.capacity_rows = stand.device.cached_rows + stand.device.count_live_rows()

        with pytest.raises(RemoteFault) as told:
            ask(member, list(range(stand.device.capacity_rows + 1)))

        assert isinstance(told.value.error, torch.OutOfMemoryError)
        assert stand.device.cached_rows == 0
        assert ask(member, [5]) == [16]


def test_members_share_one_lock_of_the_device_no_longer_than_they_live(tmp_path):
    """While a member that has left is waited for, others come, ask and get answers."""
    entered, goes_on = threading.Event(), threading.Event()

    class Slow(HostDevice):
        def unlock_pages(self, address: int) -> None:
            entered.set()
            assert goes_on.wait(PATIENCE_S)
            super().unlock_pages(address)

    with Stand(tmp_path, Slow(Schedule(0))) as stand:
        assert ask(stand.member(), [1]) == [4]
        stand.links[0].close()
        assert entered.wait(PATIENCE_S)
        try:
            assert ask(stand.member(), [2]) == [7]
        finally:
            goes_on.set()
        until(lambda: len(stand.device.locked) == 1, "memory that is unlocked")
