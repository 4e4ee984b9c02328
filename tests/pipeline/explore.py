"""Looks at every state that a small model can reach, and tells how it comes to a wrong one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

__all__ = ["Found", "Model", "explore"]


class Model(Protocol):
    """What threads (and devices) may do, as states and steps between them."""

    def start(self) -> Any:
        """The first state."""

    def steps(self, state: Any) -> Iterable[tuple[tuple, Any]]:
        """All that may happen next, each with what it is called."""

    def wrong(self, state: Any) -> str:
        """What must never be and is; nothing if all is well."""

    def unfinished(self, state: Any) -> str:
        """Why nothing may end here; nothing if it may."""


@dataclass(repr=False)
class Found:
    """What an exploration has seen."""

    states: int = 0
    steps: int = 0
    ends: list = field(default_factory=list)
    """The states in which nothing more can happen."""

    problem: str = ""
    """What is wrong in the end of the trace; nothing if no state is wrong."""

    trace: list[tuple] = field(default_factory=list)
    """The shortest way there."""

    def __repr__(self) -> str:
        if not self.problem:
            return f"nothing wrong in {self.states} states, {self.steps} steps"
        lines = [f"{number:3} {' '.join(map(str, s))}" for number, s in enumerate(self.trace, 1)]
        seen = f"({self.states} states seen)"
        return "\n".join([f"{self.problem}, after {len(lines)} steps {seen}:", *lines])


def explore(model: Model) -> Found:
    """Breadth first, so that a trace is as short as can be.

    A state without a next one must be a good end, and no step may lead back to an earlier state:
    then whatever is done in whatever order, it ends, and well.
    """
    start = model.start()
    found = Found(states=1)
    numbers: dict[Hashable, int] = {start: 0}
    came: list[tuple[int, tuple]] = [(0, ())]
    follow: list[list[int]] = []
    states = [start]
    for number, state in enumerate(states):  # the list grows meanwhile
        problem = model.wrong(state)
        follow.append([])
        for step, after in () if problem else model.steps(state):
            found.steps += 1
            reached = numbers.setdefault(after, len(states))
            if reached == len(states):
                states.append(after)
                came.append((number, step))
            follow[number].append(reached)
        if not problem and not follow[number]:
            found.ends.append(state)
            problem = model.unfinished(state)
        found.states = len(states)
        if problem:
            found.problem = problem
            found.trace = _trace(came, number)
            return found
    if circle := _circle(follow):
        found.problem = "it need not end, since the last steps lead back to where they began"
        found.trace = _trace(came, circle[0])
        for number, after in pairwise([*circle, circle[0]]):
            steps = model.steps(states[number])
            found.trace.append(next(step for step, state in steps if state == states[after]))
    return found


def _trace(came: list[tuple[int, tuple]], number: int) -> list[tuple]:
    trace = []
    while number:
        number, step = came[number]
        trace.append(step)
    return trace[::-1]


def _circle(follow: list[list[int]]) -> list[int]:
    """States that lead from one to the next and from the last to the first; none if all ends."""
    before: list[list[int]] = [[] for _ in follow]
    for number, numbers in enumerate(follow):
        for after in numbers:
            before[after].append(number)
    # Take away what follows nothing that is left, until only circles and what follows them are.
    waits_for = [len(numbers) for numbers in before]
    free = [number for number, count in enumerate(waits_for) if not count]
    for number in free:  # the list grows meanwhile
        for after in follow[number]:
            waits_for[after] -= 1
            if not waits_for[after]:
                free.append(after)
    left = set(range(len(follow))).difference(free)
    walk: list[int] = []
    while left and (not walk or walk[-1] not in walk[:-1]):
        into = before[walk[-1]] if walk else left
        walk.append(min(left.intersection(into)))
    return walk[walk.index(walk[-1]) : -1][::-1] if walk else []
