"""A connection of a member to the host: its questions, one after the other.

receive     a question
take in     its payload out of the member's memory, to the device if that is wanted
wait        until a host call with it has ended
hand out    its rows of the result, into the member's memory
send        the answer
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from micro_batch_handler.hosting.host_lane import HostLane
from micro_batch_handler.hosting.member_memory import MemberMemory
from micro_batch_handler.hosting.merging import Asked, Item, Returned
from micro_batch_handler.hosting.messages import Answer, Failed, Question
from micro_batch_handler.hosting.remote_errors import packed
from micro_batch_handler.hosting.transport import UnreadableMessage, receive, send
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.device_errors import device_is_lost, is_out_of_memory
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.device.work import NoStreams
from micro_batch_handler.pipeline.gate import Gate
from micro_batch_handler.pipeline.memory import free_memory
from micro_batch_handler.pipeline.micro_batch import Part, gather
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.payloads.structure import change_leaves
from micro_batch_handler.pipeline.watch import Clock

__all__ = ["Service"]

logger = logging.getLogger(__name__)


class Service:
    """Answers the questions of all connections, each in its thread.

    Args:
        lanes: of the hosted stages, in order.
        ops: how payloads are cut.
        streams: of the device.
        device: that the model is on; None for the CPU.
        clock: the time.
        lost: called with a reason when the device is lost.
        copy_in: whether the tensors of questions are copied to the device.
    """

    def __init__(
        self,
        lanes: Sequence[HostLane],
        ops: PayloadOps,
        streams: Streams | NoStreams,
        device: Accelerator | None,
        clock: Clock,
        lost: Callable[[str], None],
        *,
        copy_in: bool,
    ) -> None:
        self.lanes = lanes
        self._ops = ops
        self._streams = streams
        self._device = device
        self._clock = clock
        self._lost = lost
        self._copy_in = copy_in and device is not None
        self._asked: set[Asked] = set()
        self._gate = Gate()

    @property
    def has_last_words(self) -> bool:
        """Whether a question is settled and its member has not been told."""
        return any(asked.outcome is not None and not asked.sent for asked in tuple(self._asked))

    def use_device_here(self) -> None:
        """A new thread is on the first device, whichever the handler uses."""
        if self._device is not None:
            self._device.use_here()

    def answer_next(self, connection: socket.socket, member: MemberMemory) -> None:
        """Answer the next question of a connection.

        Raises:
            EOFError: the member has gone, or this process ends.
            OSError: the member does not read.
        """
        try:
            question: Question = receive(connection)
        except UnreadableMessage as unreadable:
            send(connection, Failed(packed(unreadable.error), self.lanes[0].stage, None))
            return
        asked = Asked(
            question, self._clock.now_s(), lambda runs: member.mark(question.ticket, runs=runs)
        )
        self._asked.add(asked)
        try:
            with self._gate.passing(alone=question.alone):
                reply = self._reply(member, asked)
            send(connection, reply)
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
        lane = self.lanes[-1 if question.handles else 0]
        try:
            # Reading a payload runs code of the user's classes, which may end this process.
            asked.runs(True)
            part = self._take_in(member, question)
        except Exception as error:
            self._look_at(error)
            return Failed(packed(error), lane.stage, None)
        asked.runs(False)
        lane.waiting.add(Item([asked], part, question.kind))
        outcome = asked.wait()
        if not isinstance(outcome, Returned):
            return outcome
        part, effects = outcome
        call = None
        try:
            data, places = self._hand_out(member, question, part)
            call = asked.host_call()
        except Exception as error:
            self._look_at(error)
            return Failed(packed(error), self.lanes[-1].stage, call)
        asked.runs(False)  # the device has ended its work, so that it cannot be why it fails
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
            self._lost("its device is lost")
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
