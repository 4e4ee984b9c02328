"""A model host and its members in this process, on a real socket and in real shared memory."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, NamedTuple

import torch

from micro_batch_handler.hosting.arena import Arena
from micro_batch_handler.hosting.client import HostClient, Rows, Told
from micro_batch_handler.hosting.host import Host
from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.host_link import HostLink
from micro_batch_handler.hosting.kinds import kind_of
from micro_batch_handler.hosting.meeting_place import MeetingPlace
from micro_batch_handler.hosting.merging import WaitingItems
from micro_batch_handler.hosting.messages import Failed
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps
from micro_batch_handler.pipeline.watch import Clock

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""


_pids = count(2**23)
"""Of hosts in this process, beyond those that the system gives to processes."""


def passed(gate: threading.Semaphore, times: int = 1) -> None:
    """Wait until a gate was opened so many times."""
    for _ in range(times):
        assert gate.acquire(timeout=GATE_S), "the gate stays closed"


class Effects(NamedTuple):
    """A result, and what else was done for each row."""

    result: Any
    effects: Sequence[Any]


class Model:
    """Doubles its rows; the first calls can be held, and calls can be made to fail.

    Args:
        call: what it does with a payload, and the contexts of its rows.
    """

    def __init__(self, call: Callable[[Any, Sequence[Any]], Any] | None = None) -> None:
        self._call = call or (lambda payload, _contexts: payload * 2)
        self.calls: list[list[Any]] = []
        """The contexts of each call."""
        self.began = threading.Semaphore(0)
        self.held = threading.Semaphore(0)
        self.holds = 0
        """How many of the next calls wait until they are let go."""

    def __call__(self, payload: Any, contexts: Sequence[Any]) -> tuple[Any, Any]:
        self.calls.append(list(contexts))
        self.began.release()
        if self.holds:
            self.holds -= 1
            passed(self.held)
        result = self._call(payload, contexts)
        return (result.result, result.effects) if isinstance(result, Effects) else (result, None)

    def let_go(self, calls: int = 1) -> None:
        for _ in range(calls):
            self.held.release()


class Arrivals(WaitingItems):
    """What waits for a lane; a gate opens for each item that comes.

    Args:
        takes: False for a lane that takes nothing.
    """

    def __init__(self, *, takes: bool = True) -> None:
        super().__init__()
        self._takes = takes
        self.came = threading.Semaphore(0)

    def take(self, most_rows):
        with self._changed:
            self._changed.wait_for(lambda: self._takes or self._closed)
        return super().take(most_rows)

    def add(self, item):
        super().add(item)
        self.came.release()


class _Listener:
    """A listening socket that remembers its connections, so that it can end as a process does."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  (of the host before)
        self.socket.bind(path)
        self.socket.listen(64)
        self.connections: list[socket.socket] = []

    def accept(self):
        connection, address = self.socket.accept()
        self.connections.append(connection)
        return connection, address

    def fileno(self) -> int:
        return self.socket.fileno()

    def end(self) -> None:
        for each in (self.socket, *self.connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class LocalHost:
    """A host of this process, in whose place another one can be put.

    Args:
        key: of its meeting place.
        models: one for each hosted stage; inference is the last.
        clock: the host's.
        ops: how payloads are cut.
        takes: whether its model takes what waits.
        settings: more arguments of the last lane.
    """

    def __init__(
        self,
        key: str,
        *models: Any,
        clock: Clock | None = None,
        ops: PayloadOps = CUT_AND_JOIN,
        takes: bool = True,
        **settings: Any,
    ) -> None:
        self.place = MeetingPlace(key)
        self._listener = _Listener(str(self.place.folder / "socket"))
        self._clock = clock or Clock()
        self.pid = next(_pids)
        self.ops = ops
        self.host = Host(self._listener, self._clock)  # type: ignore[arg-type]
        self.lanes: list[HostLane] = []
        stages = ("preprocess", "inference")[-len(models) :]
        for stage, model in reversed(list(zip(stages, models, strict=True))):
            lane = HostLane(
                stage,
                model,
                ops,
                NoStreams(),
                self._clock,
                then=self.lanes[0] if self.lanes else None,
                lost=lambda: self.host.end("lost"),
                **({} if self.lanes else settings),
            )
            lane.waiting = Arrivals(takes=takes)
            lane.model = model  # type: ignore[attr-defined]
            self.lanes.insert(0, lane)
        self.came = self.lanes[0].waiting.came
        """A gate that opens for each question that waits."""
        self.host.start()
        self.error: BaseException | None = None
        """What `serve` has raised."""
        self.thread = threading.Thread(target=self._serve, name="mbh-main", daemon=True)

    def serve(self) -> LocalHost:
        """Answer from now on, in a thread that stands for the main thread of the process."""
        self.thread.start()
        while not self.host._loaded.wait(0.01):
            assert self.thread.is_alive(), self.error
        return self

    def _serve(self) -> None:
        try:
            self.host.serve(self.lanes, self.ops, NoStreams(), None, self.pid, copy_in=False)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """End as a process that was killed: all connections close."""
        self._listener.end()

    def close(self) -> None:
        """End all threads too, which a process would take with it."""
        self.end()
        self.host.end("the test is over")
        self.host.log.close()
        for lane in self.lanes:
            if isinstance(lane.model, Model):
                lane.model.let_go(1000)
        if self.thread.ident is not None:
            self.thread.join(GATE_S)
        self.host._loaded.set()
        for asked in tuple(self.host._service._asked if self.host._service else ()):
            asked.settle(Failed(b"", "inference", None))


class Asking(threading.Thread):
    """A question in a thread of its own."""

    def __init__(self, ask: Callable[[], Told]) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self._told: Told | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._told = self._ask()
        except BaseException as error:
            self._error = error

    def told(self) -> Told:
        """What it was told, once it was; raises what the question raised."""
        self.join(GATE_S)
        assert not self.is_alive(), "no answer"
        if self._error is not None:
            raise self._error
        assert self._told is not None
        return self._told

    def result(self) -> Any:
        return self.told().result


class LocalMember:
    """A member of a host in this process.

    Args:
        key: of the meeting place.
        start: starts a host, if there is none; by default another one does.
        size_bytes: of its memory.
        clock: the member's.
        call_s: the longest that a host call may take.
        still_s: how long a host may stand still.
    """

    def __init__(
        self,
        key: str,
        start: Callable[[MeetingPlace], Any] = lambda _: None,
        *,
        size_bytes: int = 1 << 20,
        tickets: int = 64,
        clock: Clock | None = None,
        call_s: float | None = None,
        still_s: float | None = None,
    ) -> None:
        self.arena = Arena(size_bytes, tickets)
        self.link = HostLink(MeetingPlace(key), start, self.arena.shared, clock, still_s)
        self.client = HostClient(self.link, self.arena, clock, call_s)

    def ask(
        self,
        payload: Any,
        name: Any = "",
        *,
        rows: int | None = None,
        kind: Any = None,
        merges: bool = True,
        most_rows: int = 64,
        until_s: float | None = None,
    ) -> Told:
        """Ask for a payload whose rows have (name, place) as their contexts."""
        number = len(payload) if rows is None else rows
        kind = kind_of(payload, CUT_AND_JOIN) if kind is None else kind
        context = [(name, place) for place in range(number)]
        question = Rows(payload, number, kind, merges, most_rows, context)
        return self.client.ask("inference", question, until_s)

    def asking(self, payload: Any, name: Any = "", **how: Any) -> Asking:
        """The same, in a thread."""
        return Asking(lambda: self.ask(payload, name, **how))


def rows(*values: float, columns: int = 1) -> torch.Tensor:
    """A row for each value."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1).repeat(1, columns)
