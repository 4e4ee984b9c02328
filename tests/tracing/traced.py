"""Batches with exact times: computed call by call, or run by a real pipeline on a led clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.hosting.messages import HostCall
from micro_batch_handler.pipeline.call import INLINE, CallRecord
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.watch import Clock
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tracing.recording import Setup, TracedBatch
from tests.fakes import plan

PATIENCE_S = 30
Cost = Callable[[int], float]


def setup(
    lanes: Sequence[int] = (1, 1, 1), batch_size: int = 8, cores: int = 4, **more: object
) -> Setup:
    return Setup("planted", PerStage(*lanes), batch_size, cores, **more)


def a_row(seconds: float) -> Cost:
    """Calls that cost by the row."""
    return lambda rows: seconds * rows


def scheduled(
    rows: int,
    sizes: Sequence[int],
    costs: Sequence[Cost],
    lanes: Sequence[int] = (1, 1, 1),
    began_s: float = 0.0,
) -> TracedBatch:
    """What a pipeline without any overhead does: each lane takes what is ready first."""
    inline = all(size >= rows for size in sizes)
    done_s = [began_s] * rows
    calls = []
    for stage, size, cost, count in zip(STAGES, sizes, costs, lanes, strict=True):
        free_s = [began_s] * count
        groups = [range(at, min(at + size, rows)) for at in range(0, rows, size)]
        ready_s = {group: max(done_s[row] for row in group) for group in groups}
        for group in sorted(groups, key=lambda group: (ready_s[group], group.start)):
            lane = free_s.index(min(free_s))
            begins_s = max(ready_s[group], free_s[lane])
            free_s[lane] = begins_s + cost(len(group))
            thread = INLINE if inline else f"mbh-{stage}-{lane}"
            times = (ready_s[group], begins_s, free_s[lane])
            calls.append(CallRecord(stage, tuple(group), thread, *times, failed=False))
            for row in group:
                done_s[row] = free_s[lane]
    calls.sort(key=lambda call: call.ended_s)
    return TracedBatch(rows, Plan(*sizes), began_s, max(done_s), calls)


def hosted(
    rows: int = 8,
    *,
    size: int = 4,
    began_s: float = 100.0,
    prepare_s: float = 1.0,
    wait_s: float = 0.5,
    call_s: float = 2.0,
    others: int = 0,
    first: bool = True,
) -> TracedBatch:
    """What a member of a model host does: its micro-batches wait there, and are computed in turn.

    Args:
        rows: of the batch.
        size: of all micro-batches.
        began_s: when it was cut.
        prepare_s: of a call of preprocess.
        wait_s: before the first host call, while the host computes for others.
        call_s: of a host call.
        others: rows of other members in each host call.
        first: whether the micro-batches are the first parts of their host calls.
    """
    calls = []
    at_s = free_s = began_s
    for number, start in enumerate(range(0, rows, size)):
        group = tuple(range(start, min(start + size, rows)))
        ready_s = at_s + prepare_s
        times = (began_s, at_s, ready_s)
        calls.append(CallRecord("preprocess", group, "mbh-preprocess-0", *times, failed=False))
        begins_s = max(ready_s + wait_s, free_s)
        free_s = begins_s + call_s
        host = HostCall(len(group) + others, 1 + bool(others), first, ready_s, begins_s, free_s)
        lane = f"mbh-inference-{number % 4}"
        calls.append(CallRecord("inference", group, lane, ready_s, ready_s, free_s, False, host))
        at_s = ready_s
    done_s = free_s
    for call in [call for call in calls if call.stage == "inference"]:
        times = (call.ended_s, call.ended_s, call.ended_s + 0.25)
        calls.append(CallRecord("postprocess", call.indices, "mbh-postprocess-0", *times, False))
        done_s = call.ended_s + 0.25
    calls.sort(key=lambda call: call.ended_s)
    return TracedBatch(rows, plan(size), began_s, done_s, calls)


class LedClock(Clock):
    """Moves only when it is led, and knows who has read it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.at_s = 0.0
        self.readers: list[str] = []

    def now_s(self) -> float:
        with self.changed:
            self.readers.append(threading.current_thread().name)
            self.changed.notify_all()
            return self.at_s


class Led:
    """A real pipeline whose calls take as long as a computed schedule says, to the tick.

    Each call waits until its end is due. The clock moves to that end when every call that the
    schedule has begun by then has come. The schedule knows of no inboxes: no lane may have to wait
    for room in one and then have more to do.
    """

    def __init__(self, expected: TracedBatch, lanes: Sequence[int]) -> None:
        self._expected = expected
        self._clock = LedClock()
        self._running: dict[tuple[str, int], str] = {}
        self._over = False
        functions = {stage: self._stage(stage) for stage in STAGES}
        self.pipeline = Pipeline(functions, PerStage(*lanes), clock=self._clock)

    def run(self):
        """The outcomes of the batch."""
        found = []
        rows = list(range(self._expected.rows))
        sizes = plan(*self._expected.plan)
        caller = threading.Thread(target=lambda: found.append(self.pipeline.run(rows, sizes)))
        with self.pipeline:
            caller.start()
            try:
                for call in self._expected.calls:
                    self._until_all_have_come(call.ended_s)
                    self._end(call)
            finally:
                with self._clock.changed:
                    self._running.clear()
                    self._over = True
                    self._clock.changed.notify_all()
                caller.join(PATIENCE_S)
        return found[0]

    def _stage(self, stage):
        def call(_tag, call, payload):
            key = (stage, call.micro_batch.indices[0])
            with self._clock.changed:
                if not self._over:
                    self._running[key] = threading.current_thread().name
                self._clock.changed.notify_all()
                assert self._clock.changed.wait_for(lambda: key not in self._running, PATIENCE_S)
            return list(payload), None

        return call

    def _until_all_have_come(self, end_s: float) -> None:
        due = {
            (call.stage, call.indices[0])
            for call in self._expected.calls
            if call.began_s < end_s <= call.ended_s and call.ended_s > self._clock.at_s
        }
        with self._clock.changed:
            assert self._clock.changed.wait_for(lambda: due <= set(self._running), PATIENCE_S), due

    def _end(self, call: CallRecord) -> None:
        clock = self._clock
        with clock.changed:
            clock.at_s = call.ended_s
            clock.readers.clear()
            lane = self._running.pop((call.stage, call.indices[0]))
            clock.changed.notify_all()
            # The end is read by then, and cannot be read too late.
            assert clock.changed.wait_for(lambda: lane in clock.readers, PATIENCE_S)
