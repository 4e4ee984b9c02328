"""The hand-over on a device, as a model: streams that run late, events, and memory used again.

A lane only puts work into streams. Each stream does its work in order, at any later time. Freed
memory goes back to its stream's pool and is given to the next call on that stream at once, as
PyTorch's allocator does, whatever other streams have still to read from it.

The rules that are checked: a lane records an event behind its kernel before the result becomes
visible; the stream that uses the result waits for the event; a call keeps what it reads until its
own event is done, also if it fails; Python reads an answer after the event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from micro_batch_handler.config import STAGES

__all__ = ["DEVICE_MISTAKES", "Device", "DeviceCase"]

DEVICE_MISTAKES = {
    "no wait": "a stream does not wait for the event of what it reads",
    "visible before its event": "the next stage may start before the event is recorded",
    "dropped after the host call": "what a call reads is let go when its Python code returns",
    "dropped by failure": "a call that raises lets go what its kernels read",
    "host does not wait": "Python reads an answer before the event",
    "waits for events to come": "streams wait for events not yet recorded, as flags in memory do",
}

FREE = NEVER = -1


class Call(NamedTuple):
    """How far a call has come."""

    at: str = "todo"
    """todo, waits, launched, out (recorded and visible), answered, failed, gone, lost."""
    stream: int = FREE
    block: int = FREE
    """Its result, in the pool of the stream."""


class Block(NamedTuple):
    """Some memory on the device."""

    owner: int
    """The call whose result it holds or will; FREE if it may be used again."""
    content: int = NEVER
    """The call that wrote it last."""


Op: TypeAlias = "tuple[str, int]"
"""wait for the event of a call; run its kernel; record its event"""


class DeviceState(NamedTuple):
    """Host and device."""

    calls: tuple[Call, ...]
    queues: tuple[tuple[Op, ...], ...]
    """What each stream has still to do."""
    pools: tuple[tuple[Block, ...], ...]
    done: frozenset[int] = frozenset()
    """Calls whose events the device has reached."""
    fails: int = 0
    broken: str = ""


@dataclass(frozen=True)
class DeviceCase:
    """Which calls there are, on which streams."""

    groups: tuple[tuple[tuple[int, ...], ...], ...] = (((0,), (1,), (2,)),) * 3
    """For each stage, the rows of its calls."""
    lanes: tuple[int, int, int] = (1, 1, 1)
    one_copy_stream: bool = False
    """Whether copies in and out share a stream."""
    fails: int = 0
    """How many calls of inference raise after they have launched their kernel."""
    mistake: str = ""


Step: TypeAlias = "tuple[tuple, DeviceState]"


class Device:
    """The model. Stream 0 copies in, 1 copies out, each permit of inference has one more."""

    def __init__(self, case: DeviceCase) -> None:
        self.case = case
        calls = [(stage, rows) for stage, groups in enumerate(case.groups) for rows in groups]
        self.stage = [stage for stage, _ in calls]
        self.rows = [rows for _, rows in calls]
        self.parts = [
            [
                before
                for before, (earlier, others) in enumerate(calls)
                if self._feeds(earlier, others, stage, rows)
            ]
            for stage, rows in calls
        ]
        self.users = [
            [user for user, parts in enumerate(self.parts) if call in parts]
            for call in range(len(calls))
        ]
        self._early = case.mistake in ("visible before its event", "waits for events to come")
        copies = not case.one_copy_stream
        self._alone = (copies and case.lanes[0] == 1, True, copies and case.lanes[2] == 1)

    @staticmethod
    def _feeds(earlier: int, others: tuple, stage: int, rows: tuple) -> bool:
        return earlier == stage - 1 and bool(set(others) & set(rows))

    def start(self) -> DeviceState:
        """Nothing has been launched, no memory is used."""
        streams = 2 + self.case.lanes[1]
        calls = (Call(),) * len(self.stage)
        return DeviceState(calls, ((),) * streams, ((),) * streams, fails=self.case.fails)

    def steps(self, state: DeviceState) -> Iterator[Step]:
        """What a lane, a stream, or whoever lets memory go may do next."""
        for call, (at, stream, _) in enumerate(state.calls):
            name = STAGES[self.stage[call]], self.rows[call]
            for step, after in getattr(self, "_" + at)(state, call, stream):
                yield ("host:", *name, step), self._pass_events(after)
        for stream, queue in enumerate(state.queues):
            if queue and queue[0][0] == "run":
                call = queue[0][1]
                after = state._replace(queues=_at(state.queues, stream, queue[1:]))
                yield (
                    (f"stream {stream}: runs", STAGES[self.stage[call]], self.rows[call]),
                    self._pass_events(self._run(after, call)),
                )

    def wrong(self, state: DeviceState) -> str:
        """A read of what is not there."""
        return state.broken

    def unfinished(self, state: DeviceState) -> str:
        """Streams that wait for each other, memory that is never let go."""
        if any(state.queues):
            return "streams wait for each other"
        if any(call.at not in ("gone", "lost") for call in state.calls):
            return "the host waits for ever"
        if any(block.owner != FREE for pool in state.pools for block in pool):
            return "memory is never let go"
        return ""

    # The device.

    def _pass_events(self, state: DeviceState) -> DeviceState:
        """Let each stream come to its next kernel, or to a wait for what is still to be done.

        At once, and not at any later time: no order of reads and writes needs an event to be late.
        """
        passed = True
        while passed:
            passed = False
            for stream, queue in enumerate(state.queues):
                does, call = queue[0] if queue else ("", NEVER)
                if does == "record" or (does == "wait" and call in state.done):
                    done = state.done | {call}
                    queues = _at(state.queues, stream, queue[1:])
                    state = state._replace(done=done, queues=queues)
                    passed = True
        return state

    def _run(self, state: DeviceState, call: int) -> DeviceState:
        for part in self._read_by(state, call):
            state = self._read(state, part, f"{STAGES[self.stage[call]]} {self.rows[call]}")
        _, stream, block = state.calls[call]
        old = state.pools[stream][block]
        return _block(state, stream, block, old._replace(content=call))

    def _read(self, state: DeviceState, part: int, reader: str) -> DeviceState:
        _, stream, number = state.calls[part]
        block = state.pools[stream][number]
        if block == (part, part):
            return state
        what = (
            "freed memory"
            if block.owner == FREE
            else "memory that is not yet written"
            if block.owner == part
            else "memory that is used again"
        )
        return state._replace(broken=f"{reader} reads {what}")

    def _read_by(self, state: DeviceState, call: int) -> list[int]:
        return [part for part in self.parts[call] if state.calls[part].at not in ("failed", "lost")]

    # The host; one method for each place where a call may be.

    def _todo(self, state, call, _stream):
        stage = self.stage[call]
        for earlier in range(self.stage.index(stage), call):
            if state.calls[earlier].at == "todo" and self._ready(state, earlier):
                return
        busy = [
            other.stream
            for number, other in enumerate(state.calls)
            if self.stage[number] == stage and other.at in self._busy(stage)
        ]
        if len(busy) >= self.case.lanes[stage] or not self._ready(state, call):
            return
        if stage == 1:
            streams = set(range(2, 2 + self.case.lanes[1])).difference(busy)
        else:
            streams = {0 if self.case.one_copy_stream else stage // 2}
        for stream in streams:
            yield from self._begin(state, call, stream)

    def _begin(self, state, call, stream):
        after = state
        for part in self._read_by(state, call) if self.case.mistake != "no wait" else ():
            # A stream does not wait for an event that was never recorded.
            recorded = state.calls[part].at != "launched"
            if recorded or self.case.mistake == "waits for events to come":
                after = _queue(after, stream, ("wait", part))
        after = _call(after, call, Call("waits", stream))
        if self._alone[self.stage[call]]:
            yield from self._waits(after, call, stream)
        else:
            yield "begins", after

    def _busy(self, stage: int) -> tuple[str, ...]:
        return ("waits", "launched", "out") if stage == 2 else ("waits", "launched")

    def _ready(self, state: DeviceState, call: int) -> bool:
        visible = ("out", "failed", "gone", "lost", "launched" if self._early else "out")
        return all(state.calls[part].at in visible for part in self.parts[call])

    def _waits(self, state, call, stream):
        owners = [block.owner for block in state.pools[stream]]
        block = owners.index(FREE) if FREE in owners else len(owners)
        old = state.pools[stream][block].content if FREE in owners else NEVER
        after = _block(state, stream, block, Block(call, old))
        after = _queue(after, stream, ("run", call))
        after = _call(after, call, Call("launched", stream, block))
        if self._alone[self.stage[call]] and not self._early:
            for step, after_that in self._launched(after, call, stream):
                yield f"launches its kernel, {step}", after_that
        else:
            yield "launches its kernel", after

    def _launched(self, state, call, stream):
        block = state.calls[call].block
        after = _queue(state, stream, ("record", call))
        # The first stage reads nothing that it could let go.
        out = _call(after, call, Call("out" if self.parts[call] else "gone", stream, block))
        if self.case.mistake == "dropped after the host call":
            out = self._let_go_parts(out, call)
        yield "records its event", out
        if state.fails and self.stage[call] == 1:
            after = after._replace(fails=state.fails - 1)
            after = _block(after, stream, block, after.pools[stream][block]._replace(owner=FREE))
            after = _call(after, call, Call("failed", stream, block))
            if self.case.mistake == "dropped by failure":
                after = self._let_go_parts(after, call)
            yield "raises", self._skip(after)

    def _skip(self, state: DeviceState) -> DeviceState:
        """A call whose parts have all failed is never made."""
        for call, parts in enumerate(self.parts):
            waiting = state.calls[call].at == "todo" and parts
            if waiting and all(state.calls[part].at in ("failed", "lost") for part in parts):
                state = _call(state, call, Call("lost"))
                state = self._let_go_parts(state, call)
        return state

    def _out(self, state, call, stream):
        block = state.calls[call].block
        if self.stage[call] < 2:
            if call in state.done:
                after = _call(state, call, Call("gone", stream, block))
                yield "lets its parts go", self._let_go_parts(after, call)
        elif call in state.done or self.case.mistake == "host does not wait":
            after = self._read(state, call, f"Python {self.rows[call]}")
            yield "reads its answers", _call(after, call, Call("answered", stream, block))

    def _answered(self, state, call, stream):
        return self._failed(state, call, stream)

    def _failed(self, state, call, stream):
        if call in state.done:
            at = "lost" if state.calls[call].at == "failed" else "gone"
            block = state.calls[call].block
            after = _call(state, call, Call(at, stream, block))
            if at == "gone":
                old = after.pools[stream][block]
                after = _block(after, stream, block, old._replace(owner=FREE))
            yield "lets its parts go", self._let_go_parts(after, call)

    def _gone(self, _state, _call, _stream):
        return iter(())

    _lost = _gone

    def _let_go_parts(self, state: DeviceState, call: int) -> DeviceState:
        """Memory is free when nobody holds it any more."""
        early = self.case.mistake == "dropped after the host call"
        over = ("gone", "lost", "out", "answered") if early else ("gone", "lost")
        if self.case.mistake == "dropped by failure":
            over = (*over, "failed")
        for part in self.parts[call]:
            _, stream, block = state.calls[part]
            held = any(state.calls[user].at not in over for user in self.users[part])
            if not held and state.pools[stream][block].owner == part:
                old = state.pools[stream][block]
                state = _block(state, stream, block, old._replace(owner=FREE))
        return state


def _at(items: tuple, place: int, item) -> tuple:
    return (*items[:place], item, *items[place + 1 :])


def _call(state: DeviceState, number: int, call: Call) -> DeviceState:
    return state._replace(calls=_at(state.calls, number, call))


def _queue(state: DeviceState, stream: int, op: Op) -> DeviceState:
    return state._replace(queues=_at(state.queues, stream, (*state.queues[stream], op)))


def _block(state: DeviceState, stream: int, number: int, block: Block) -> DeviceState:
    return state._replace(pools=_at(state.pools, stream, _at(state.pools[stream], number, block)))
