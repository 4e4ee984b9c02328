"""Calls that take too long: answered, replaced, and never heard of again."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from operator import countOf
from types import SimpleNamespace

import pytest
import torch

from harness.fixtures import collected, lanes
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import StageTimeout
from micro_batch_handler.pipeline import watch
from micro_batch_handler.pipeline.lanes import MOST_LOST_LANES
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN, PayloadOps, cut, join
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.recovery import Policy
from micro_batch_handler.pipeline.watch import alarm, alarm_works_here
from tests.fakes import ManualClock, plan, stages

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""


class Hanging:
    """A pipeline on a clock of the test's, one stage of which hangs on some rows."""

    def __init__(
        self,
        stage: str,
        hangs: set,
        sizes: tuple[int, int, int] = (2, 2, 2),
        **lanes_: int,
    ):
        self.hangs_on = lambda payload: hangs & set(payload)
        self.clock = ManualClock()
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.plan = plan(*sizes)
        functions = stages()
        functions[stage] = lambda _tag, _call, payload: (self._call(payload), None)
        self.pipeline = Pipeline(
            functions,
            PerStage(**{**dict.fromkeys(STAGES, 1), **lanes_}),
            stage_timeout_s=30,
            clock=self.clock,
        )

    def _call(self, payload):
        if self.hangs_on(payload):
            self.entered.release()
            self.gate.wait(GATE_S)
        return list(payload)

    def start(self, rows: list) -> threading.Thread:
        """Run a batch in another thread; its outcomes are in `self.outcomes` when that ends."""

        def run():
            self.outcomes = self.pipeline.run(rows, self.plan)

        caller = threading.Thread(target=run, daemon=True)
        caller.start()
        return caller

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.pipeline.close()


@pytest.mark.parametrize("stage", STAGES)
def test_a_call_that_hangs_costs_its_own_requests_only(stage, caplog):
    """The call's requests time out, a new lane does the rest, and the log says who did what."""
    with Hanging(stage, {2}) as hanging:
        before = len(lanes())
        caller = hanging.start(list(range(8)))
        hanging.entered.acquire()
        hanging.clock.advance(31)
        caller.join(GATE_S)

        assert {2, 3} == hanging.outcomes.failures.keys()
        error = hanging.outcomes.failures[2].error
        assert isinstance(error, StageTimeout)
        assert str(error) == f"{stage}: one call took longer than 30 s"
        assert [0, 1, 4, 5, 6, 7] == [hanging.outcomes.answers[i] for i in (0, 1, 4, 5, 6, 7)]
        assert not hanging.outcomes.fatal
        assert "self.gate.wait" in caplog.text
        assert f"mbh-{stage}-0" in caplog.text
        assert len(lanes()) == before + 1  # the one that hangs and its successor

        hanging.gate.set()
        deadline_s = time.monotonic() + GATE_S
        while len(lanes()) > before and time.monotonic() < deadline_s:
            time.sleep(0.001)
        assert len(lanes()) == before


def test_before_the_time_out_nothing_is_given_up():
    """A call that takes long but not too long is waited for."""
    with Hanging("inference", {2}) as hanging:
        caller = hanging.start(list(range(8)))
        hanging.entered.acquire()
        hanging.clock.advance(29)
        hanging.gate.set()
        caller.join(GATE_S)

    assert {} == hanging.outcomes.failures


def test_a_late_result_reaches_neither_its_own_batch_nor_a_later_one():
    """What a given-up call returns in the end is thrown away, and so are its side effects."""
    kept = []
    gate, entered = threading.Event(), threading.Event()
    clock = ManualClock()
    first_batch = [True]

    def inference(tag, call, payload):
        if first_batch[0] and 1 in payload:
            entered.set()
            gate.wait(GATE_S)
            return ["late"] * len(payload), lambda: kept.append("late")
        return [tag] * len(payload), lambda: kept.append((tag, *call.micro_batch.indices))

    functions = {**stages(), "inference": inference}
    with Pipeline(functions, PerStage(1, 1, 1), stage_timeout_s=30, clock=clock) as pipeline:
        results = []
        caller = threading.Thread(
            target=lambda: results.append(pipeline.run([0, 1, 2], plan(1), "first")), daemon=True
        )
        caller.start()
        entered.wait(GATE_S)
        hung = next(lane for lane in lanes() if lane.name == "mbh-inference-0")
        clock.advance(31)
        caller.join(GATE_S)
        first_batch[0] = False
        gate.set()
        hung.join(GATE_S)
        second = pipeline.run([0, 1, 2], plan(1), "second")

    assert {1} == results[0].failures.keys()
    assert ["first", "first"] == [results[0].answers[0], results[0].answers[2]]
    assert (["second"] * 3, {}) == (second.answers, second.failures)
    assert "late" not in kept
    assert not hung.is_alive()


def test_what_the_hung_lane_was_to_do_next_is_done():
    """A lane that hangs in the middle of isolating a fault leaves its other halves to another."""
    gate, entered = threading.Event(), threading.Event()
    clock = ManualClock()

    def inference(batch):
        if 1 in batch and len(batch) == 2:
            entered.set()
            gate.wait(GATE_S)
        if 1 in batch:
            raise ValueError
        return list(batch)

    functions = stages(inference=inference)
    with Pipeline(functions, PerStage(1, 1, 1), stage_timeout_s=30, clock=clock) as pipeline:
        results = []
        caller = threading.Thread(
            target=lambda: results.append(pipeline.run(list(range(12)), plan(8))), daemon=True
        )
        caller.start()
        entered.wait(GATE_S)
        clock.advance(31)
        caller.join(GATE_S)
        gate.set()

    assert {0, 1} == results[0].failures.keys()
    assert list(range(2, 12)) == results[0].answers[2:]


def test_lanes_that_keep_hanging_end_the_batch_and_the_worker():
    """After so many lost lanes every request that is left gets its error, and that is said."""
    rows = list(range(2 * MOST_LOST_LANES + 4))
    with Hanging("inference", set(rows)) as hanging:
        caller = hanging.start(rows)
        for _ in range(MOST_LOST_LANES):
            hanging.entered.acquire()
            hanging.clock.advance(31)
        caller.join(GATE_S)

        assert set(rows) == hanging.outcomes.failures.keys()
        assert hanging.outcomes.fatal


def test_what_waited_only_for_the_hung_call_goes_on():
    """A neighbour whose group waited for the row that hangs is inferred without it."""
    with Hanging("preprocess", {1}, (1, 2, 2)) as hanging:
        caller = hanging.start([0, 1])
        hanging.entered.acquire()
        hanging.clock.advance(31)
        caller.join(GATE_S)

        assert {1} == hanging.outcomes.failures.keys()
        assert hanging.outcomes.answers[0] == 0


def test_a_hung_call_of_a_stopped_batch_is_given_up_before_the_next():
    """With `fail_batch` a lane that hangs when its batch ends early does not block the next one."""
    clock, gate, entered = ManualClock(), threading.Event(), threading.Event()

    def preprocess(rows):
        if 1 in rows:
            entered.set()
            gate.wait(GATE_S)
        return rows

    def inference(batch):
        if 0 in batch:
            entered.wait(GATE_S)
            raise ValueError
        return batch

    results = []
    with Pipeline(
        stages(preprocess, inference),
        PerStage(1, 1, 1),
        policy=Policy(isolate=False),
        stage_timeout_s=30,
        clock=clock,
    ) as pipeline:

        def run(rows):
            results.append(pipeline.run(rows, plan(1)))

        first = threading.Thread(target=run, args=([0, 1],), daemon=True)
        first.start()
        entered.wait(GATE_S)
        while first.is_alive():
            clock.advance(31)
            first.join(0.01)
        second = threading.Thread(target=run, args=([2, 3],), daemon=True)
        second.start()
        second.join(GATE_S)
        in_time = len(results) == 2
        gate.set()

    assert in_time
    assert {0, 1} == results[0].failures.keys()
    assert ([2, 3], {}) == (results[1].answers, results[1].failures)


def test_hooks_of_the_handler_are_bounded_too():
    """A `join_payloads` that hangs is given up like a stage."""
    clock, gate, entered = ManualClock(), threading.Event(), threading.Event()

    def hang(parts):
        entered.set()
        gate.wait(GATE_S)
        return join(parts)

    ops = PayloadOps(lambda _: None, lambda _: None, cut, hang)
    results = []
    with Pipeline(
        stages(), PerStage(1, 1, 1), ops=ops, stage_timeout_s=30, clock=clock
    ) as pipeline:
        caller = threading.Thread(
            target=lambda: results.append(pipeline.run([0, 1], plan(1, 2, 2))), daemon=True
        )
        caller.start()
        entered.wait(GATE_S)
        clock.advance(31)
        caller.join(GATE_S)
        gate.set()

    assert {0, 1} == results[0].failures.keys()


def test_after_a_hang_nothing_of_the_batch_stays_in_memory():
    """The lane that took over does not keep what it did first."""

    class Row(list):
        pass

    with Hanging("inference", {2}) as hanging:
        rows = [Row([number]) for number in range(4)]
        alive = [weakref.ref(row) for row in rows]
        hanging.hangs_on = lambda payload: [2] in payload
        caller = hanging.start(rows)
        hanging.entered.acquire()
        hanging.clock.advance(31)
        caller.join(GATE_S)
        hanging.gate.set()
        del rows, hanging.outcomes

        assert collected(lambda: not any(row() for row in alive))


def test_an_empty_batch_ends_at_once_in_any_thread():
    """No rows, no waiting, also where calls are not inline."""
    answers = []
    with Pipeline(stages(), PerStage(1, 1, 1), stage_timeout_s=30) as pipeline:
        caller = threading.Thread(
            target=lambda: answers.append(pipeline.run([], plan(1)).answers), daemon=True
        )
        caller.start()
        caller.join(GATE_S)

    assert [[]] == answers


def test_an_alarm_that_is_swallowed_rings_again():
    """A bare `except:` and a finalizer swallow what the alarm raises, but not for ever."""

    def stubborn(batch):
        try:
            threading.Event().wait(GATE_S)
        except:  # noqa: E722  (what the test is about)
            threading.Event().wait(GATE_S)
        return batch

    with Pipeline(stages(stubborn), PerStage(1, 1, 1), stage_timeout_s=0.1) as pipeline:
        outcomes = pipeline.run([0], plan(1))

    assert isinstance(outcomes.failures[0].error, StageTimeout)


def test_a_full_inbox_does_not_stop_the_watch():
    """With inference hanging and its inbox full, the time-out still comes and all is settled."""
    with Hanging("inference", {0}, (1, 1, 1), preprocess=3) as hanging:
        caller = hanging.start(list(range(40)))
        hanging.entered.acquire()
        hanging.clock.advance(31)
        caller.join(GATE_S)

    assert {0} == hanging.outcomes.failures.keys()


def test_an_inline_call_is_interrupted():
    """In the main thread an alarm bounds the call, and the stage after it is not called."""
    hang = threading.Event()

    def inference(batch):
        if 1 in batch:
            hang.wait(GATE_S)
        return batch

    with Pipeline(stages(inference=inference), PerStage(1, 1, 1), stage_timeout_s=0.1) as pipeline:
        outcomes = pipeline.run([0, 1, 2], plan(4))
        after = pipeline.run([0, 2], plan(4))

    assert {0, 1, 2} == outcomes.failures.keys()
    assert isinstance(outcomes.failures[0].error, StageTimeout)
    assert ([0, 2], {}) == (after.answers, after.failures)
    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)


def test_an_alarm_is_not_stopped_by_except_exception():
    """A stage that swallows every `Exception` is interrupted all the same."""

    def stubborn(batch):
        for _ in range(2):
            try:
                threading.Event().wait(GATE_S)
            except Exception:  # noqa: PERF203  (what the test is about)
                continue
        return batch

    with Pipeline(stages(stubborn), PerStage(1, 1, 1), stage_timeout_s=0.1) as pipeline:
        outcomes = pipeline.run([0], plan(1))

    assert isinstance(outcomes.failures[0].error, StageTimeout)


def test_an_outer_alarm_goes_on_after_an_inner_one():
    """A bounded call inside a bounded call leaves the outer bound in force."""

    def inner_then_more():
        with pytest.raises(StageTimeout, match="inner"), alarm("inner", 0.05):
            threading.Event().wait(GATE_S)
        threading.Event().wait(GATE_S)

    with pytest.raises(StageTimeout, match="outer") as raised, alarm("outer", 0.3):
        inner_then_more()

    assert raised.value.stage == "outer"


def test_an_alarm_that_rings_while_it_ends_is_over(monkeypatch):
    """It is not left set, and raises nothing where nobody would catch it."""
    assert alarm_works_here()
    # All in C, so that Python calls the signal's handler in the frame of the alarm itself.
    rings = map(countOf, [map(signal.raise_signal, [signal.SIGALRM])], [None])
    times_s = chain([0.0], rings, repeat(2.0))
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=partial(next, times_s)))

    with pytest.raises(StageTimeout), alarm("inference", 0.5):
        pass

    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)


def test_a_signal_that_comes_after_its_call_interrupts_nothing():
    """Neither the outer call, whose time is not over, nor what comes after both."""
    assert alarm_works_here()

    with alarm("outer", GATE_S):
        with alarm("inner", GATE_S):
            pass
        signal.raise_signal(signal.SIGALRM)
    signal.raise_signal(signal.SIGALRM)


def test_an_alarm_that_rings_before_the_call_begins_interrupts_the_call():
    """However short the time is."""
    assert alarm_works_here()

    for _ in range(100):
        with pytest.raises(StageTimeout), alarm("inference", 1e-6):
            threading.Event().wait(GATE_S)

    assert (0.0, 0.0) == signal.getitimer(signal.ITIMER_REAL)


def test_calls_are_not_inline_where_no_alarm_works():
    """In another thread, or where somebody else uses the alarm, lanes make the calls."""
    seen = []

    def note(payload):
        seen.append(threading.current_thread().name)
        return payload

    assert alarm_works_here()
    with Pipeline(stages(note), PerStage(1, 1, 1), stage_timeout_s=30) as pipeline:
        caller = threading.Thread(target=pipeline.run, args=([1], plan(1)))
        caller.start()
        caller.join()
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        try:
            pipeline.run([1], plan(1))
        finally:
            signal.signal(signal.SIGALRM, before)

    assert ["mbh-preprocess-0", "mbh-preprocess-0"] == seen


def test_rows_that_hang_one_after_the_other_do_not_outlast_torchserves_patience():
    """Where each row passes alone and hangs, no call is made after two time-outs."""
    hung = []

    def hang(rows):
        hung.append(rows)
        threading.Event().wait(GATE_S)

    timeout_s = 0.05
    with Pipeline(stages(hang), PerStage(1, 1, 1), stage_timeout_s=timeout_s) as pipeline:
        groups = [[row] for row in range(20)]
        outcomes = pipeline.run(list(range(20)), plan(1), serial=groups)

    assert all(isinstance(each.error, StageTimeout) for each in outcomes.failures.values())
    assert sorted(outcomes.failures) == list(range(20))
    assert 2 <= len(hung) <= 3


def test_a_lane_that_hangs_holds_nothing_of_what_it_was_going_to_do_next():
    """Another lane does that, and its payloads are let go of, while the call still hangs."""
    gate, payloads = threading.Event(), []

    def preprocess(payload):
        payloads.append(weakref.ref(result := torch.ones(len(payload), 1)))
        return result

    def inference(tag, call, payload):
        if 0 in call.micro_batch.indices:
            entered.set()
            gate.wait(GATE_S)
        return payload.clone(), None

    keys = iter("ab")
    ops = replace(CUT_AND_JOIN, group_by=lambda payload: [next(keys)] * len(payload))
    functions = stages(preprocess, postprocess=lambda payload: [1] * len(payload))
    clock, entered = ManualClock(), threading.Event()
    functions["inference"] = inference
    with Pipeline(functions, PerStage.of(1), ops, stage_timeout_s=30, clock=clock) as pipeline:
        caller = threading.Thread(target=pipeline.run, args=([0, 1, 2, 3], plan(2, 4, 4)))
        caller.start()
        assert entered.wait(GATE_S)
        clock.advance(31)
        caller.join(GATE_S)
        try:
            assert collected(lambda: payloads[1]() is None)
        finally:
            gate.set()


def test_the_first_call_of_a_whole_batch_is_made_though_it_is_late():
    """A cut batch that has lost its time is run again whole, which repeats none of its calls."""
    clock = ManualClock()
    clock.advance(10)
    with Pipeline(stages(), PerStage.of(1), clock=clock) as pipeline:
        outcomes = pipeline.run([1, 2], plan(2), until_s=5.0)

    assert not outcomes.failures
    assert outcomes.answers == [1, 2]
