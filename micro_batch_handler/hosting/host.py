"""The model host: answers the questions of all members with one model.

a thread for each connection     reads a question, copies its rows to the device, waits,
                                 copies the result back and sends it
the main thread                  loads the model; then merges what waits, and calls it
a thread of another stage        the same for preprocess, if that is hosted (host_lane.py)
the thread that watches          calls that take too long, members that have gone, a frontend
                                 that has ended
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.hosting.arena import mark_running
from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.member_memory import MemberMemory
from micro_batch_handler.hosting.merging import Asked, Item, Returned
from micro_batch_handler.hosting.messages import (
    Answer,
    Failed,
    Hello,
    LoadFailed,
    LogText,
    Question,
    Ready,
    UnreadableMessage,
    check_peer,
    receive,
    receive_hello,
    send,
)
from micro_batch_handler.hosting.remote_errors import packed
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.device_errors import device_is_lost, is_out_of_memory
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.memory import free_memory
from micro_batch_handler.pipeline.micro_batch import Part, gather
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.payloads.structure import change_leaves
from micro_batch_handler.pipeline.watch import Clock, stacks

__all__ = ["Host"]

logger = logging.getLogger(__name__)

SEND_TIMEOUT = struct.pack("ll", 10, 0)
"""Seconds and microseconds that a member may leave a message unread before it counts as gone."""

IDLE_S = 10.0
"""How long the host stays without a member. A worker that starts again needs less."""

LOOK_EVERY_S = 0.25

MOST_UNSAID = 1000
"""Pieces of text that wait for a member to log them."""

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
        self._listener = listener
        self._clock = clock or Clock()
        self._began_s = self._clock.now_s()
        self._lock = threading.Lock()
        self._members: dict[str, MemberMemory] = {}
        self._listening: list[socket.socket] = []
        self._loaded = threading.Event()
        self._greeting: Ready | LoadFailed | None = None
        self._unsaid: list[str] = []
        self._over = threading.Event()
        self.why_over = ""
        self._idle_since_s: float | None = self._began_s
        self._asked: set[Asked] = set()
        self._lanes: Sequence[HostLane] = ()
        self._ops: PayloadOps
        self._streams: Streams | NoStreams
        self._device: Accelerator | None = None
        self._copy_in = False

    def start(self) -> None:
        """Accept members from now on, in a thread."""
        threading.Thread(target=self._accept, name="mbh-accept", daemon=True).start()

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
            BaseException: what the setup of this thread raises.
        """
        self._lanes, self._ops, self._streams = lanes, ops, streams
        self._device, self._copy_in = device, copy_in and device is not None
        *others, last = lanes
        last.set_up()
        for lane in others:
            threading.Thread(
                target=_set_up_and_run, args=(lane,), name=f"mbh-{lane.stage}-0", daemon=True
            ).start()
        self._greeting = Ready(pid, self._clock.now_s() - self._began_s)
        self._loaded.set()
        last.run()

    def watch(self, frontend_lives: Callable[[], bool], stage_timeout_s: float | None) -> None:
        """Return when this process has to end; `why_over` says why.

        Args:
            frontend_lives: whether the server that all members belong to still runs.
            stage_timeout_s: the longest that one call may take; None for any time.
        """
        while not self._clock.wait(self._over, self._clock.now_s() + LOOK_EVERY_S):
            self._use_device_here()
            if not frontend_lives():
                self.end("the server has ended")
            elif self._is_idle():
                self.end("no worker has been connected for some seconds")
            elif stage_timeout_s is not None:
                self._end_if_hung(stage_timeout_s)
        last_s = self._clock.now_s() + LAST_WORDS_S
        while self._has_last_words() and self._clock.now_s() < last_s:
            self._clock.wait(threading.Event(), self._clock.now_s() + SHORT_S)

    def end(self, why: str) -> None:
        """This process has to end, and calls nothing any more; the first reason counts."""
        self.why_over = self.why_over or why
        for lane in self._lanes:
            lane.waiting.close()
        self._over.set()

    def say(self, text: str) -> None:
        """Let a member log these lines; without a member they wait for the next."""
        with self._lock:
            self._unsaid = [*self._unsaid, text][-MOST_UNSAID:]
            while self._listening and self._unsaid and not self._is_said(self._listening[0]):
                self._listening.pop(0)

    def _is_said(self, connection: socket.socket) -> bool:
        try:
            send(connection, LogText("".join(self._unsaid)))
        except OSError:
            return False
        self._unsaid.clear()
        return True

    def __repr__(self) -> str:
        lanes = ", ".join(
            f"{lane.stage}: {lane.calls} calls of {lane.rows} rows, {len(lane.waiting)} waiting"
            for lane in self._lanes
        )
        return f"<Host {len(self._members)} members, {lanes or 'loading'}>"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            session = threading.Thread(
                target=self._session, args=(connection,), name="mbh-session", daemon=True
            )
            session.start()

    def _session(self, connection: socket.socket) -> None:
        member = None
        try:
            with connection:
                # Sending is bounded by the system, since Python's time-out would poll each time.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, SEND_TIMEOUT)
                check_peer(connection)
                hello, fd = receive_hello(connection)
                member = self._enter(hello, fd)
                self._loaded.wait()
                if self._over.is_set():
                    return  # the next host has a greeting for it
                self._use_device_here()
                send(connection, self._greeting)
                if isinstance(self._greeting, LoadFailed):
                    return
                if hello.listens:
                    self._listen(connection)
                else:
                    while True:
                        self._answer_next(connection, member)
        except (EOFError, OSError):
            pass  # the member has gone
        except Exception:
            logger.exception("a connection to a worker ends")
        finally:
            if member is not None:
                self._leave(member)

    def _enter(self, hello: Hello, fd: int) -> MemberMemory:
        with self._lock:
            self._idle_since_s = None
            member = self._members.get(hello.member)
            if member is None:
                member = MemberMemory(hello.member, fd, hello.size_bytes)
                self._members[hello.member] = member
            else:
                member.close_another(fd)
            member.connections += 1
            return member

    def _leave(self, member: MemberMemory) -> None:
        with self._lock:
            member.connections -= 1
            gone = not member.connections
            if gone:
                del self._members[member.name]
            if not self._members:
                self._idle_since_s = self._clock.now_s()
        if gone:
            member.close()  # which may wait for the device, and nobody else has to

    def _use_device_here(self) -> None:
        if self._device is not None:
            self._device.use_here()

    def _is_idle(self) -> bool:
        since_s = self._idle_since_s
        return since_s is not None and self._clock.now_s() >= since_s + IDLE_S

    def _listen(self, connection: socket.socket) -> None:
        with self._lock:
            self._listening.append(connection)
        self.say("")
        try:
            connection.recv(1)  # until the member has gone
        finally:
            with self._lock, suppress(ValueError):
                self._listening.remove(connection)

    def _answer_next(self, connection: socket.socket, member: MemberMemory) -> None:
        try:
            question: Question = receive(connection)
        except UnreadableMessage as unreadable:
            send(connection, Failed(packed(unreadable.error), self._lanes[0].stage, None))
            return
        asked = Asked(
            question,
            self._clock.now_s(),
            lambda: mark_running(member.view, question.ticket),
        )
        self._asked.add(asked)
        try:
            send(connection, self._reply(member, asked))
        finally:
            self._asked.discard(asked)
            asked.sent = True
            asked.outcome = None  # the lane may still know the call, and its result is large

    def _reply(self, member: MemberMemory, asked: Asked) -> Any:
        """What to tell the member, once there is something.

        Raises:
            EOFError: nothing, since this process ends.
        """
        question = asked.question
        try:
            lane = self._lanes[-1 if question.handles else 0]
            lane.waiting.add(Item([asked], self._take_in(member, question)))
        except Exception as error:
            self._look_at(error)
            return Failed(packed(error), self._lanes[0].stage, None)
        outcome = asked.wait()
        if not isinstance(outcome, Returned):
            return outcome
        part, effects, call = outcome
        try:
            data, places = self._hand_out(member, question, part)
        except Exception as error:
            self._look_at(error)
            return Failed(packed(error), self._lanes[-1].stage, call)
        return Answer(data, places, effects, call)

    def _look_at(self, error: BaseException) -> None:
        """See to the device after an error outside the lanes.

        Raises:
            EOFError: the device is lost. Any row of the last calls may be why, and a member that
                heard of the error would take its own device for lost.
        """
        if device_is_lost(error):
            logger.error("the device is lost", exc_info=error)
            self._streams.keep_all()
            self.end("its device is lost")
            raise EOFError
        if is_out_of_memory(error):
            free_memory(error, self._streams.release, thorough=False)

    def _take_in(self, member: MemberMemory, question: Question) -> Part:
        """The payload of a question, on the device if that is wanted, as soon as it is copied."""
        part = Part(member.payload(question), question.rows, 0, question.rows)
        if not self._copy_in or self._device is None:
            return part
        device, locked = self._device, member.lock(self._device)

        def upload(leaf: Any) -> Any:
            return device.upload(leaf, wait=not locked) if device.is_on_host(leaf) else leaf

        # The part is kept until it is copied: what is small lies in no locked memory.
        with self._streams.work("preprocess", [part], question.rows) as work:
            payload = work.hand_over(change_leaves(part.payload, upload))
        return Part(payload, question.rows, 0, question.rows, work.done)

    def _hand_out(
        self, member: MemberMemory, question: Question, part: Part
    ) -> tuple[bytes, Sequence[tuple[int, int]]]:
        """A result as an answer has it: what is large lies in the member's memory."""
        with self._streams.work("postprocess", [part], question.rows) as work:
            result = work.take_in(gather([part], self._ops))
            return member.put(change_leaves(result, self._fetched), question)

    def _fetched(self, leaf: Any) -> Any:
        """A tensor that is still on the device, as it is without streams, in the host's memory."""
        device = self._device
        return device.fetch(leaf) if device is not None and device.is_here(leaf) else leaf

    def _has_last_words(self) -> bool:
        return any(asked.outcome is not None and not asked.sent for asked in tuple(self._asked))

    def _end_if_hung(self, stage_timeout_s: float) -> None:
        for lane in self._lanes:
            running = lane.running
            if running is None or self._clock.now_s() < running.began_s + stage_timeout_s:
                continue
            error = StageTimeout(lane.stage, stage_timeout_s)
            logger.error("%s. What the threads of the host do:\n%s", error, stacks())
            if len(running.asked) == 1 and running.asked[0].question.rows == 1:
                # A row that hangs by itself has its verdict; all others are asked again.
                running.asked[0].settle(Failed(packed(error), lane.stage, None))
            self.end(f"a call of {lane.stage} took longer than {stage_timeout_s:g} s")


def _set_up_and_run(lane: HostLane) -> None:
    lane.set_up()
    lane.run()
