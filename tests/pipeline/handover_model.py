"""The hand-over between lanes as a model small enough to look at every order of events.

One step is what one thread does between two places where others can notice: a lane takes a task
from its inbox, begins a call, returns from it, tells the batch, puts one micro-batch into the next
inbox; the caller submits, waits, gives a call up. What a lane does by itself in between is part of
the step before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from typing import NamedTuple, TypeAlias

from micro_batch_handler.config import STAGES

__all__ = ["MISTAKES", "Batch", "Case", "Handover", "State", "retries", "settle"]

MISTAKES = {
    "retry into the first inbox": "what failed goes back to the first stage's inbox, bounded too",
    "permit lost on failure": "a call that raises does not give its permit back",
    "permit held while handing on": "it is given back only when the next inbox has the result",
    "no permit for repeating": "a lane that repeats an earlier stage does not ask for its permit",
    "late result counts": "a call that was given up is accepted when it returns",
    "rest lost": "what a hung lane was to do next is not given to its successor",
    "lane lost": "a hung lane is not replaced",
    "watch hands on": "the watch itself puts what a given-up call frees into the next inbox",
    "group waits for ever": "a row that failed is not settled for the groups of later stages",
    "later groups wait for ever": "it is settled for the groups of the next stage only",
    "freed late": "what a deadline frees is handed on after the call, not before it",
    "stopped runs begin calls": "a call begins though its batch was stopped",
    "stop does not wait": "a stopped batch ends though its calls run",
}
"""Planted on request: a checker that does not find them would show nothing."""

OPEN, IN, GONE = range(3)
"""A row before a stage: to come, there, failed. An outcome: to come, answered, failed."""


class Batch(NamedTuple):
    """A micro-batch."""

    rows: tuple[int, ...]
    parts: bool = False
    """Whether its payload is there; without, it starts from its requests."""
    alone: bool = False
    """Whether a call with this one row alone has failed."""


Batches: TypeAlias = "tuple[Batch, ...]"
Ready: TypeAlias = "tuple[tuple[int, Batch], ...]"


class Lane(NamedTuple):
    """What a lane does."""

    does: str
    stage: int = 0
    """What it calls: its own stage, or an earlier one."""
    batch: Batch = Batch(())
    todo: Batches = ()
    out: Ready = ()
    """What it is handing on."""


IDLE = Lane("idle")


class State(NamedTuple):
    """Everything that the threads share, and where each of them is."""

    lanes: tuple[tuple[Lane, ...], ...]
    """For each stage, sorted: lanes are alike."""
    inboxes: tuple[Batches, ...]
    permits: tuple[int, ...]
    slots: tuple[tuple[int, ...], ...]
    """For each stage but the first, what is known of each row."""
    outcomes: tuple[int, ...]
    caller: tuple
    faults: int
    """How many more calls may fail by chance."""
    hangs: int
    ended: str = ""
    """How the batch was stopped, if it was."""
    finished: bool = False
    given_up: tuple[tuple[int, Lane], ...] = ()
    """Lanes that hang in a call that no longer counts, with the positions of their stages."""
    broken: str = ""


@dataclass(frozen=True)
class Case:
    """How large the model is, and what may happen in it."""

    rows: int = 3
    sizes: tuple[int, int, int] = (1, 1, 1)
    lanes: tuple[int, int, int] = (2, 2, 2)
    capacity: int | None = None
    """Of the inboxes between stages; twice the lanes if None."""
    first_capacity: int | None = None
    """Of the first inbox; None: no bound."""
    faults: int = 0
    bad: frozenset[tuple[int, int]] = frozenset()
    """(stage, row): each call of that stage with that row fails."""
    hangs: int = 0
    most_lost: int = 3
    expires: frozenset[int] = frozenset()
    """Rows whose deadline may pass at any time."""
    loses_device: bool = False
    isolate: bool = True
    mistake: str = ""

    @property
    def stops(self) -> bool:
        """Whether the whole batch may be ended at once."""
        return self.loses_device or not self.isolate or self.most_lost <= self.hangs


def settle(
    slots: tuple[int, ...], rows: tuple[int, ...], how: int, size: int
) -> tuple[tuple[int, ...], Batches]:
    """Rows have come or failed before a stage; the slots then, and the groups now complete."""
    after = list(slots)
    for row in rows:
        after[row] = how
    ready = []
    for group in sorted({row // size for row in rows}):
        members = range(group * size, min(group * size + size, len(after)))
        if all(after[row] for row in members):
            left = tuple(row for row in members if after[row] == IN)
            ready += [Batch(left, parts=True)] if left else []
    return tuple(after), tuple(ready)


def retries(batch: Batch) -> Batches:
    """What is called instead of a micro-batch whose call failed."""
    if len(batch.rows) == 1:
        return () if batch.alone else (Batch(batch.rows, alone=True),)
    half = -(-len(batch.rows) // 2)
    return Batch(batch.rows[:half]), Batch(batch.rows[half:])


Step: TypeAlias = "tuple[tuple, State]"


class Handover:
    """The model."""

    def __init__(self, case: Case) -> None:
        self.case = case
        inner = [case.capacity or 2 * lanes for lanes in case.lanes]
        self._room = (case.first_capacity or case.rows * 9, inner[1], inner[2])
        self._first = [
            Batch(tuple(range(start, min(start + case.sizes[0], case.rows))))
            for start in range(0, case.rows, case.sizes[0])
        ]

    def start(self) -> State:
        """The caller has cut the batch; all lanes wait."""
        case = self.case
        return State(
            lanes=tuple((IDLE,) * lanes for lanes in case.lanes),
            inboxes=((), (), ()),
            permits=case.lanes,
            slots=((OPEN,) * case.rows,) * 2,
            outcomes=(OPEN,) * case.rows,
            caller=("submits", 0),
            faults=case.faults,
            hangs=case.hangs,
        )

    def steps(self, state: State) -> Iterator[Step]:
        """All that may happen next."""
        yield from getattr(self, "_caller_" + state.caller[0])(state)
        for position, lanes in enumerate(state.lanes):
            for place, lane in enumerate(lanes):
                if place and lane == lanes[place - 1]:
                    continue  # another lane that does the same
                others = lanes[:place] + lanes[place + 1 :]
                for step, after, now in getattr(self, "_lane_" + lane.does)(state, position, lane):
                    yield (
                        (STAGES[position], "lane", *step),
                        after._replace(lanes=_with(after.lanes, position, others, now)),
                    )
        for position, lane in state.given_up:
            yield from self._late(state, position, lane)

    def wrong(self, state: State) -> str:
        """Requests settled twice, more calls at once than allowed, calls that nobody watches."""
        running = [lane for lane in chain(*state.lanes) if lane.does in ("calls", "hangs")]
        for stage, most in enumerate(self.case.lanes):
            if sum(lane.stage == stage for lane in running) > most:
                return f"{STAGES[stage]} runs in more than {most} threads"
        if state.caller == ("back",) and running and state.ended != "fatal":
            return "the caller is back while a call of its batch runs"
        return state.broken

    def unfinished(self, state: State) -> str:
        """Whether somebody waits for what does not come."""
        if state.caller != ("back",):
            return "the caller waits for ever"
        if not all(state.outcomes):
            return "a request has no outcome"
        if state.ended == "fatal" and any(lane.does == "hangs" for lane in chain(*state.lanes)):
            return ""  # the process ends
        if set(chain(*state.lanes)) != {IDLE} or any(state.inboxes):
            return "a lane waits for ever"
        if tuple(map(len, state.lanes)) != self.case.lanes:
            return "a lane is lost"
        return "" if state.permits == self.case.lanes else "a permit is lost"

    # The caller's thread.

    def _caller_submits(self, state: State) -> Iterator[Step]:
        number = state.caller[1]
        if len(state.inboxes[0]) < self._room[0]:
            batch = self._first[number]
            last = number + 1 == len(self._first)
            yield (
                ("caller submits", batch.rows),
                _put(state, 0, batch)._replace(
                    caller=("waits",) if last else ("submits", number + 1)
                ),
            )

    def _caller_waits(self, state: State) -> Iterator[Step]:
        if state.finished:
            yield ("caller is woken",), state._replace(caller=("back",))
        for position, lanes in enumerate(state.lanes):
            for place, lane in enumerate(lanes):
                if lane.does != "hangs":
                    continue
                after = _permit(state, lane.stage, 1)
                after = after._replace(
                    lanes=_with(state.lanes, position, lanes[:place] + lanes[place + 1 :]),
                    given_up=tuple(sorted((*state.given_up, (position, lane)))),
                    caller=("gives_up", position, lane),
                )
                yield (
                    ("caller gives up", STAGES[lane.stage], "on", lane.batch.rows),
                    self._finish(after),
                )

    def _caller_gives_up(self, state: State) -> Iterator[Step]:
        _, position, lane = state.caller
        after, ready = self._fail(state, position, lane.batch.rows)
        todo = () if self.case.mistake == "rest lost" else lane.todo
        caller = ("counts",)
        if self.case.mistake == "watch hands on" and ready:
            caller, ready = ("hands_on", ready), ()
        if self.case.mistake != "lane lost":
            new = self._go_on(position, todo, ready)
            after = after._replace(lanes=_with(after.lanes, position, after.lanes[position], new))
        yield ("caller replaces the lane of", STAGES[position]), after._replace(caller=caller)

    def _caller_hands_on(self, state: State) -> Iterator[Step]:
        (position, batch), *rest = state.caller[1]
        if len(state.inboxes[position]) < self._room[position]:
            caller = ("hands_on", tuple(rest)) if rest else ("counts",)
            after = _put(state, position, batch)._replace(caller=caller)
            yield ("caller hands on", batch.rows), after

    def _caller_counts(self, state: State) -> Iterator[Step]:
        after = state._replace(caller=("waits",))
        if len(state.given_up) >= self.case.most_lost:
            yield ("caller ends the batch: too many lanes hang",), self._stop(after, "fatal")
        else:
            yield ("caller waits on",), after

    def _caller_back(self, _state: State) -> Iterator[Step]:
        return iter(())

    # A lane.

    def _lane_idle(self, state, position, _lane):
        if state.inboxes[position]:
            batch, *rest = state.inboxes[position]
            inboxes = _at(state.inboxes, position, tuple(rest))
            now = self._go_on(position, (batch,))
            yield ("takes", batch.rows), state._replace(inboxes=inboxes), now

    def _lane_looks(self, state, position, lane):
        """Whether the batch goes on, and at the deadlines; left out where neither can be."""
        if state.ended:
            yield ("leaves", lane.batch.rows), state, IDLE
            return
        rows = lane.batch.rows
        may = [row for row in rows if row in self.case.expires]
        for gone in chain.from_iterable(combinations(may, count) for count in range(len(may) + 1)):
            left = lane.batch._replace(rows=tuple(row for row in rows if row not in gone))
            after, ready = self._fail(state, position, gone) if gone else (state, ())
            if not left.rows or (ready and self.case.mistake != "freed late"):
                now = self._go_on(position, ((left,) if left.rows else ()) + lane.todo, ready)
            else:
                now = self._attempt(position, left, lane.todo, ready)
            step = ("finds expired", gone, "of", rows) if gone else ("looks at", rows)
            yield step, after, now

    def _lane_asks(self, state, position, lane):
        """For a permit."""
        if self.case.mistake == "no permit for repeating" and lane.stage < position:
            state = _permit(state, lane.stage, 1)
        if not state.permits[lane.stage]:
            return
        if state.ended and self.case.mistake != "stopped runs begin calls":
            yield ("leaves", lane.batch.rows), state, IDLE
            return
        called = ("begins", STAGES[lane.stage], "on", lane.batch.rows)
        after = _permit(state, lane.stage, -1)
        yield called, after, lane._replace(does="calls")
        if state.hangs:
            hangs = after._replace(hangs=state.hangs - 1)
            yield (*called, "and hangs"), hangs, lane._replace(does="hangs")

    def _lane_hangs(self, _state, _position, _lane):
        return iter(())

    def _lane_calls(self, state, position, lane):
        what = STAGES[lane.stage], "on", lane.batch.rows
        bad = any((lane.stage, row) in self.case.bad for row in lane.batch.rows)
        if not bad:
            yield self._return(("returns from", *what), state, position, lane, "tells")
        if bad or state.faults:
            after = state if bad else state._replace(faults=state.faults - 1)
            yield self._return(("fails in", *what), after, position, lane, "fails")
        if self.case.loses_device:
            yield self._return(("loses the device in", *what), state, position, lane, "stops")

    def _return(self, step, state, position, lane, does):
        """The call is struck off the batch, then its permit is given back."""
        lost = does == "fails" and self.case.mistake == "permit lost on failure"
        held = self.case.mistake == "permit held while handing on" and does == "tells"
        if not lost and not (held and lane.stage == position):
            state = _permit(state, lane.stage, 1)
        if does == "tells" and lane.stage < position:
            now = lane._replace(does="asks", stage=lane.stage + 1)
        else:
            now = lane._replace(does=does)
        others = list(state.lanes[position])
        others.remove(lane)
        state = self._finish(state._replace(lanes=_with(state.lanes, position, tuple(others), now)))
        return step, state, now

    def _lane_tells(self, state, position, lane):
        after, ready = self._accept(state, position, lane.batch.rows)
        now = self._go_on(position, lane.todo, lane.out + ready)
        if self.case.mistake == "permit held while handing on":
            if now.out:
                now = now._replace(stage=position + 1)
            else:
                after = _permit(after, position, 1)
        yield ("tells of", lane.batch.rows), after, now

    def _lane_fails(self, state, position, lane):
        if not self.case.isolate:
            yield ("stops the batch",), self._stop(state, "stopped"), IDLE
            return
        again = retries(lane.batch)
        if not again:
            after, ready = self._fail(state, position, lane.batch.rows)
            yield (
                ("gives up", lane.batch.rows),
                after,
                self._go_on(position, lane.todo, lane.out + ready),
            )
        elif self.case.mistake == "retry into the first inbox":
            slots = tuple(
                tuple(OPEN if row in lane.batch.rows else how for row, how in enumerate(before))
                for before in state.slots
            )
            now = self._go_on(position, lane.todo, tuple((0, batch) for batch in again))
            yield ("sends back", lane.batch.rows), state._replace(slots=slots), now
        else:
            yield ("cuts", lane.batch.rows), state, self._go_on(position, again + lane.todo)

    def _lane_stops(self, state, _position, _lane):
        yield ("stops the batch",), self._stop(state, "fatal"), IDLE

    def _lane_hands_on(self, state, position, lane):
        (to, batch), *rest = lane.out
        if len(state.inboxes[to]) < self._room[to]:
            after = _put(state, to, batch)
            if lane.stage and not rest:
                after = _permit(after, lane.stage - 1, 1)
            now = self._go_on(position, lane.todo, tuple(rest))
            yield ("hands on", batch.rows), after, now._replace(stage=lane.stage) if rest else now

    def _late(self, state: State, position: int, lane: Lane) -> Iterator[Step]:
        """The call that was given up returns after all."""
        given_up = list(state.given_up)
        given_up.remove((position, lane))
        after = state._replace(given_up=tuple(given_up))
        if self.case.mistake == "late result counts":
            after, _ = self._accept(after, position, lane.batch.rows)
        yield (STAGES[position], "lane returns late with", lane.batch.rows), after

    def _go_on(self, position: int, todo: Batches, out: Ready = ()) -> Lane:
        """What a lane does next, with nothing in its hands but this."""
        if out:
            return Lane("hands_on", todo=todo, out=out)
        if not todo:
            return IDLE
        batch, *rest = todo
        if self.case.stops or self.case.expires.intersection(batch.rows):
            return Lane("looks", batch=batch, todo=tuple(rest))
        return self._attempt(position, batch, tuple(rest))

    def _attempt(self, position: int, batch: Batch, todo: Batches, out: Ready = ()) -> Lane:
        return Lane("asks", position if batch.parts else 0, batch, todo, out)

    # The run; each of these is done under its lock.

    def _accept(self, state: State, position: int, rows: tuple[int, ...]) -> tuple[State, Ready]:
        if state.ended:
            return state, ()
        if position < len(state.slots):
            return self._settle(state, position, rows, IN)
        return self._outcome(state, rows, IN), ()

    def _fail(self, state: State, position: int, rows: tuple[int, ...]) -> tuple[State, Ready]:
        if state.ended:
            return state, ()
        ready: Ready = ()
        if self.case.mistake != "group waits for ever":
            next_only = self.case.mistake == "later groups wait for ever"
            for later in range(position, len(state.slots))[: 1 if next_only else None]:
                state, more = self._settle(state, later, rows, GONE)
                ready += more
        return self._outcome(state, rows, GONE), ready

    def _settle(
        self, state: State, position: int, rows: tuple[int, ...], how: int
    ) -> tuple[State, Ready]:
        slots = state.slots[position]
        if any(slots[row] for row in rows):
            state = state._replace(broken=f"{rows} came twice to {STAGES[position + 1]}")
        slots, ready = settle(slots, rows, how, self.case.sizes[position + 1])
        state = state._replace(slots=_at(state.slots, position, slots))
        return state, tuple((position + 1, batch) for batch in ready)

    def _outcome(self, state: State, rows: tuple[int, ...], how: int) -> State:
        outcomes = list(state.outcomes)
        for row in rows:
            if outcomes[row]:
                state = state._replace(broken=f"request {row} has got a second outcome")
            outcomes[row] = how
        return self._finish(state._replace(outcomes=tuple(outcomes)))

    def _stop(self, state: State, how: str) -> State:
        how = "fatal" if state.ended == "fatal" else how
        outcomes = tuple(outcome or GONE for outcome in state.outcomes)
        return self._finish(state._replace(ended=how, outcomes=outcomes))

    def _finish(self, state: State) -> State:
        if state.finished or not all(state.outcomes):
            return state
        ends = state.ended == "fatal" or self.case.mistake == "stop does not wait"
        if not ends and any(lane.does in ("calls", "hangs") for lane in chain(*state.lanes)):
            return state
        return state._replace(finished=True)


def _at(items: tuple, place: int, item) -> tuple:
    return (*items[:place], item, *items[place + 1 :])


def _with(lanes: tuple, position: int, others: tuple, *more: Lane) -> tuple:
    return _at(lanes, position, tuple(sorted(others + more)))


def _put(state: State, position: int, batch: Batch) -> State:
    inbox = (*state.inboxes[position], batch)
    return state._replace(inboxes=_at(state.inboxes, position, inbox))


def _permit(state: State, stage: int, more: int) -> State:
    return state._replace(permits=_at(state.permits, stage, state.permits[stage] + more))
