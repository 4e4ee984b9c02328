"""The model host: answers the questions of all members with one model.

a thread for each connection     reads a question, copies its rows to the device, waits,
                                 copies the result back and sends it (session.py)
the main thread                  loads the model; then merges what waits, and calls it
a thread of another stage        the same for preprocess, if that is hosted (host_lane.py)
the thread that watches          calls that take too long, members that have gone, a frontend
                                 that has ended
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.lane_threads import run_beside
from micro_batch_handler.hosting.log_relay import LogRelay
from micro_batch_handler.hosting.member_memory import MemberMemory
from micro_batch_handler.hosting.members import Members
from micro_batch_handler.hosting.messages import Failed, LoadFailed, Ready
from micro_batch_handler.hosting.remote_errors import packed
from micro_batch_handler.hosting.session import Service
from micro_batch_handler.hosting.transport import check_peer, receive_hello, send
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.watch import Clock, stacks

__all__ = ["Host"]

logger = logging.getLogger(__name__)

SEND_TIMEOUT = struct.pack("ll", 10, 0)
"""Seconds and microseconds that a member may leave a message unread before it counts as gone."""

IDLE_S = 10.0
"""How long the host stays without a member. A worker that starts again needs less."""

LOOK_EVERY_S = 0.25

SHORT_S = 0.01

LAST_WORDS_S = 1.0
"""How long the host waits at its end for what members must still be told."""


class Host:
    """Serves members on a listening socket, from `start` on; until `serve` they wait for the model.

    Args:
        listener: that members connect to.
        clock: the time.
    """

    def __init__(self, listener: socket.socket, clock: Clock | None = None) -> None:
        self.log = LogRelay()
        """Gets what this process writes."""
        self.why_over = ""
        self._listener = listener
        self._clock = clock or Clock()
        self._began_s = self._clock.now_s()
        self._members = Members(self._clock)
        self._loaded = threading.Event()
        self._greeting: Ready | LoadFailed | None = None
        self._service: Service | None = None
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()

    def start(self) -> None:
        """Accept members from now on, in a thread."""
        threading.Thread(target=self._accept, name="mbh-accept", daemon=True).start()

    def let_go_in_children(self, lock: int) -> None:
        """Let processes that the handler forks close what has to end with this one.

        Members wait for the end of their connections, and the next host for that of the lock.

        Args:
            lock: the descriptor of the meeting place's lock.
        """

        def let_go() -> None:
            os.close(lock)
            for each in (self._listener, *self._connections):
                each.close()

        os.register_at_fork(after_in_child=let_go)

    def fail(self, error: BaseException) -> None:
        """The model cannot be loaded: members are told, for a second, and the host is over."""
        self._greeting = LoadFailed(packed(error))
        self._loaded.set()
        self._clock.wait(self._over, self._clock.now_s() + LAST_WORDS_S)
        self.end("the model cannot be loaded")

    def serve(
        self,
        lanes: Sequence[HostLane],
        ops: PayloadOps,
        streams: Streams | NoStreams,
        device: Accelerator | None,
        pid: int,
        *,
        copy_in: bool,
    ) -> None:
        """Answer questions until the host is over; this thread calls the last of the stages.

        The model is called in the thread that has loaded it, as in TorchServe's worker: some
        handlers, and graphs of a device, belong to it.

        Args:
            lanes: of the hosted stages, in order.
            ops: how payloads are cut.
            streams: of the device.
            device: that the model is on; None for the CPU.
            pid: of this process, for the members' logs.
            copy_in: whether the tensors of questions are copied to the device.

        Raises:
            BaseException: what the setup of a lane raises.
        """
        *others, last = lanes
        last.set_up()
        for lane in others:
            run_beside(lane)
        self._service = Service(lanes, ops, streams, device, self._clock, self.end, copy_in=copy_in)
        self._members.count_from_now()
        self._greeting = Ready(pid, self._clock.now_s() - self._began_s)
        self._loaded.set()
        last.run()

    def watch(
        self,
        lives: Callable[[], str],
        stage_timeout_s: float | None,
        load_timeout_s: float | None = None,
    ) -> None:
        """Return when this process has to end; `why_over` says why.

        Args:
            lives: says why this process has no reason to live any more; empty while it has.
            stage_timeout_s: the longest that one call may take; None for any time.
            load_timeout_s: the longest that loading may take; None for any time.
        """
        while not self._clock.wait(self._over, self._clock.now_s() + LOOK_EVERY_S):
            if self._service is not None:
                self._service.use_device_here()
            self._members.beat()
            if why := lives():
                self.end(why)
            elif not self._loaded.is_set():
                if load_timeout_s and self._clock.now_s() > self._began_s + load_timeout_s:
                    self.end(f"loading took longer than {load_timeout_s:g} s")
            elif self._members.have_been_gone(IDLE_S):
                self.end("no worker has been connected for some seconds")
            elif stage_timeout_s is not None:
                self._end_if_hung(stage_timeout_s)
        last_s = self._clock.now_s() + LAST_WORDS_S
        while self._has_last_words() and self._clock.now_s() < last_s:
            self._clock.wait(threading.Event(), self._clock.now_s() + SHORT_S)

    def end(self, why: str) -> None:
        """This process has to end, and calls nothing any more; the first reason counts."""
        self.why_over = self.why_over or why
        for lane in self._lanes():
            lane.waiting.close()
        self._over.set()

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.stage}: {lane.calls} calls of {lane.rows} rows, {len(lane.waiting)} waiting"
            for lane in self._lanes()
        )
        return f"<Host {len(self._members)} members, {lanes or 'loading'}>"

    def _lanes(self) -> Sequence[HostLane]:
        return () if self._service is None else self._service.lanes

    def _accept(self) -> None:
        while self._listener.fileno() >= 0:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was closed, or there are no descriptors left
                self._clock.wait(self._over, self._clock.now_s() + LOOK_EVERY_S)
                continue
            threading.Thread(
                target=self._session, args=(connection,), name="mbh-session", daemon=True
            ).start()

    def _session(self, connection: socket.socket) -> None:
        member = None
        self._connections.add(connection)
        try:
            with connection:
                # Sending is bounded by the system, since Python's time-out would poll each time.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
                check_peer(connection)
                hello, fd = receive_hello(connection)
                member = self._members.enter(hello, fd)
                self._loaded.wait()
                if self._over.is_set():
                    return  # the next host has a greeting for it
                send(connection, self._greeting)
                if self._service is not None:
                    self._serve_member(connection, member, self._service, listens=hello.listens)
        except (EOFError, OSError):
            pass  # the member has gone
        except Exception:
            logger.exception("a connection to a worker ends")
        finally:
            self._connections.discard(connection)
            if member is not None:
                self._members.leave(member)

    def _serve_member(
        self, connection: socket.socket, member: MemberMemory, service: Service, *, listens: bool
    ) -> None:
        if listens:
            self.log.listen(connection)
            return
        service.use_device_here()
        while True:
            service.answer_next(connection, member)

    def _has_last_words(self) -> bool:
        return self._service is not None and self._service.has_last_words

    def _end_if_hung(self, stage_timeout_s: float) -> None:
        for lane in self._lanes():
            running = lane.running
            if running is None or self._clock.now_s() < running.began_s + stage_timeout_s:
                continue
            error = StageTimeout(lane.stage, stage_timeout_s)
            logger.error("%s. What the threads of the host do:\n%s", error, stacks())
            if len(running.asked) == 1 and running.asked[0].question.rows == 1:
                # A row that hangs by itself has its verdict; all others are asked again.
                running.asked[0].settle(Failed(packed(error), lane.stage, None))
            self.end(f"a call of {lane.stage} took longer than {stage_timeout_s:g} s")
