"""Does to a real batch what the model's lanes do to the model's, and compares them."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from micro_batch_handler.config import STAGES
from micro_batch_handler.pipeline.batch import Batch, Steps
from micro_batch_handler.pipeline.call import Call
from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.outcomes import Failure
from micro_batch_handler.pipeline.requests import Requests
from tests.fakes import plan
from tests.pipeline.handover_model import Case, State

__all__ = ["Replay"]

ERROR = ValueError("planted")

SETTLING = ("tells of", "gives up", "finds expired")


class Replay:
    """A `Batch`, and the calls that it knows."""

    def __init__(self, case: Case) -> None:
        self.batch = Batch(Requests(range(case.rows)), plan(*case.sizes))
        self.finished = self.batch.expect_lanes()
        self._calls: dict[tuple[int, ...], Call] = {}
        """By their rows, which are in one lane at a time."""

    def do(self, before: State, step: tuple, after: State) -> None:
        """Do the same step, and check that it leads to the same."""
        ready: Steps = []
        if step[0].startswith("caller"):
            ready = self._caller(before, step)
        elif step[1] == "lane":
            ready = self._lane(STAGES.index(step[0]), step[2:], after)
        else:  # a lane that returns late
            assert not self.batch.end(self._calls[step[-1]], None)
        if _settles(step):
            assert _places(ready) == _out(before, after)
        self._compare(after)

    def _caller(self, before: State, step: tuple) -> Steps:
        if step[0] == "caller gives up":
            assert self.batch.end(self._calls[step[-1]], None)
        elif step[0] == "caller replaces the lane of":
            _, position, lane = before.caller
            return self.batch.fail(position, Failure(STAGES[lane.stage], ERROR, lane.batch.rows))
        elif step[0].startswith("caller ends"):
            self.batch.stop(STAGES[0], ERROR, fatal=True)
        return []

    def _lane(self, position: int, step: tuple, after: State) -> Steps:
        does, rows = step[0], next((part for part in step if type(part) is tuple), ())
        if does == "begins":
            at = STAGES.index(step[1])
            call = Call(at, position, MicroBatch(rows), (), [], self.batch.thread)
            self._calls[rows] = call
            assert self.batch.begin(call)
        elif does == "leaves":
            assert not self.batch.begin(
                Call(0, position, MicroBatch(rows), (), [], self.batch.thread)
            )
        elif does in ("returns from", "fails in", "loses the device in"):
            assert self.batch.end(self._calls[rows], None)
        elif does == "tells of":
            return self.batch.accept(position, rows, Part(list(rows), len(rows), 0, len(rows)))
        elif does in ("gives up", "finds expired"):
            return self.batch.fail(position, Failure(STAGES[position], ERROR, rows))
        elif does == "stops the batch":
            self.batch.stop(STAGES[position], ERROR, fatal=after.ended == "fatal")
        return []

    def _compare(self, after: State) -> None:
        outcomes = [
            2 if row in self.batch._failures else int(row not in self.batch._unsettled)
            for row in range(len(after.outcomes))
        ]
        lanes = list(chain(*after.lanes))
        running = [lane.batch.rows for lane in lanes if lane.does in ("calls", "hangs")]

        assert outcomes == list(after.outcomes)
        assert self.batch.stopped == bool(after.ended)
        assert self.finished.is_set() == after.finished
        assert sorted(tuple(call.micro_batch.indices) for call in self.batch.running()) == sorted(
            running
        )


def _settles(step: tuple) -> bool:
    """Whether rows come or fail in this step, so that groups may become ready."""
    return step[0].startswith("caller replaces") or (step[1:2] == ("lane",) and step[2] in SETTLING)


def _out(before: State, after: State) -> tuple:
    """What the lane that made the step, or is new, now hands on."""
    lanes = Counter(chain(*after.lanes)) - Counter(chain(*before.lanes))
    return tuple((to, batch.rows) for lane in lanes for to, batch in lane.out)


def _places(ready: Steps) -> tuple:
    return tuple((to, tuple(batch.indices)) for to, batch in ready)
