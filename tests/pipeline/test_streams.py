"""Hand-over between streams, on a device that is late, and that uses memory again at once."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from micro_batch_handler.config import STAGES
from micro_batch_handler.pipeline.device.accelerator import Accelerator
from micro_batch_handler.pipeline.device.stream import Stream
from micro_batch_handler.pipeline.device.streams import Streams
from tests.fakes import ManualClock
from tests.pipeline.device_traffic import (
    LOST,
    WEIGHTS,
    Handler,
    Sender,
    Traffic,
    problems,
    problems_of_release,
    problems_when_lost,
    problems_when_told_by_an_event,
    problems_without_event,
)
from tests.pipeline.fake_device import FakeDevice, FakeEvent, Schedule, Using

pytestmark = pytest.mark.usefixtures("quick_turns")

SEEDS = 1200
GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""


@pytest.mark.parametrize("first", range(0, SEEDS, 100))
def test_answers_are_right_however_late_the_device_is(first):
    """Any sizes, lanes, payloads and faults: right answers, and all memory and buffers back."""
    for seed in range(first, first + 100):
        traffic = Traffic.drawn(seed)

        assert not problems(traffic), traffic


@pytest.mark.parametrize("inference", ["plain", "in place", "identity"])
@pytest.mark.parametrize("capacity_rows", [4, 7])
def test_memory_that_only_ended_work_needs_is_given_back(inference, capacity_rows):
    """Where a batch does not fit beside what former calls took in, that goes first."""
    if inference == "plain" and capacity_rows == 4:
        pytest.skip("results that wait for their group need more")
    for seed in range(12):
        traffic = Traffic(
            seed,
            sizes=(4, 4, 4),
            rows=4,
            batches=3,
            inference=inference,
            capacity_rows=capacity_rows,
        )

        assert not problems(traffic), traffic


@pytest.mark.parametrize("inference", ["plain", "in place"])
@pytest.mark.parametrize("lanes", [(1, 1, 1), (3, 2, 1)])
@pytest.mark.parametrize("capacity_rows", [2, 3, 9, 20])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (4, 16, 8), (1, 8, 1)])
def test_memory_is_out_only_for_what_does_not_fit_alone(sizes, capacity_rows, lanes, inference):
    """Rows that fit alone are answered, though calls beside them hold all memory, and soon.

    Once memory has run out, no other rows of the batch begin until it is free.
    """
    for seed in range(4):
        traffic = Traffic(
            seed,
            sizes=sizes,
            lanes=lanes,
            rows=32,
            batches=1,
            inference=inference,
            capacity_rows=capacity_rows,
        )
        sender = Sender(traffic)
        with sender.pipeline:
            refused = []
            for first in range(0, 800, 100):
                sender.batch(list(range(first, first + 32)))
                refused.append(sender.device.refused - sum(refused))

        assert not sender.problems, traffic
        # What has begun, in lanes and in front of them, may fail once each; then the size is
        # halved with nothing beside it.
        assert max(refused) <= 3 * sum(lanes) + max(sizes).bit_length() + 1, refused


def test_inference_streams_that_have_nothing_to_do_hold_nothing():
    """A stream that was needed once, for two calls at a time, lets go with the next call of any."""
    traffic = Traffic(0, sizes=(1, 1, 1), lanes=(2, 2, 1), rows=2, batches=1)
    both = threading.Barrier(2, timeout=GATE_S)

    class Meeting(Handler):
        def inference(self, payload):
            if self.calls["inference"] < 2:
                both.wait()
            return super().inference(payload)

    sender = Sender(traffic, handler_class=Meeting)
    sender.send()

    assert len(sender.device.streams) == 5
    assert not sender.problems


def test_a_whole_batch_is_copied_as_its_handler_would_copy_it():
    """Nothing overlaps, so there is no page-locked memory and no stream but the caller's."""
    used = set()

    class Seen(Handler):
        def inference(self, payload):
            used.add(self.device.current)
            return super().inference(payload)

    traffic = Traffic(0, sizes=(6, 6, 6), rows=6, copy_out=True)
    sender = Sender(traffic, handler_class=Seen)
    sender.send()

    assert {sender.device.default} == used
    assert not sender.device.pinned_bytes
    assert not sender.problems


@pytest.mark.parametrize("made", ["host", "device"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("sizes", [(6, 6, 6), (1, 2, 1), (2, 1, 3)])
def test_nothing_of_a_lost_device_is_freed(sizes, stage, made):
    """Freed memory would abort the process: the batch is answered first, whoever held what."""
    traffic = replace(LOST, sizes=sizes, lanes=(2, 2, 2), made=made, fault_stage=stage)

    assert not problems_when_lost(traffic)


def test_a_thread_that_is_told_of_the_loss_by_an_event_frees_nothing():
    """Its own call was good, so that no error comes which would tell it to keep all."""
    assert not problems_when_told_by_an_event()


def test_an_event_that_may_not_be_asked_for_keeps_nothing(monkeypatch):
    """While a handler captures a graph the device refuses to tell, and is as well as before."""
    kept = []
    monkeypatch.setattr(FakeDevice, "keep_all", kept.append)
    device = FakeDevice(Schedule(0))
    stream = Stream(device, device.stream())
    stream.keep([], stream.record())

    def refused(_event):
        raise torch.AcceleratorError("operation not permitted when stream is capturing")

    with monkeypatch.context() as capturing:
        capturing.setattr(FakeEvent, "query", refused)
        stream.drop_what_is_done()

    assert not kept


def test_what_a_call_without_an_event_took_in_is_never_freed():
    """Where no event can be recorded, it is not known when the device is done with it."""
    assert not problems_without_event()


def test_after_a_fault_everything_can_be_let_go():
    """Memory that ran out is not held by calls whose work is not done: that is waited for."""
    assert not problems_of_release()


class Hanging(Handler):
    """Inference hangs once on row 2, between two kernels that change its input."""

    def __init__(self, traffic: Traffic, device: FakeDevice) -> None:
        super().__init__(traffic, device)
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.ended = threading.Semaphore(0)
        """Released by each call that has ended and counts."""

    @property
    def functions(self) -> dict[str, Any]:
        functions = super().functions
        inner = functions["inference"]

        def inference(tag, call, payload):
            result, keep = inner(tag, call, payload)
            if 2 in call.micro_batch.indices and not self.entered.is_set():
                self.lane = threading.current_thread()
                self.entered.set()
                self.gate.wait(GATE_S)
                self.device.change(lambda values: [0] * len(values), result)
            return result, keep

        functions["inference"] = inference
        return {stage: self._telling(function) for stage, function in functions.items()}

    def _telling(self, function: Any) -> Any:
        return lambda *call: (function(*call)[0], self.ended.release)


@pytest.mark.parametrize("seed", range(36))
def test_a_call_that_comes_back_late_harms_nobody(seed):
    """A call that was given up still writes to what it took in, which is nobody else's yet."""
    traffic = Traffic.drawn(seed)
    traffic = replace(
        traffic,
        sizes=(4, 2, 4),
        lanes=(traffic.lanes[0], 2 + seed % 2, traffic.lanes[2]),
        inference="in place",
        rows=8,
        callers=1,
        fault=None,
    )
    clock = ManualClock()
    sender = Sender(traffic, handler_class=Hanging, stage_timeout_s=30, clock=clock)
    handler = sender.handler
    with sender.pipeline:
        caller = threading.Thread(target=sender.batch, args=(list(range(8)), {2, 3}), daemon=True)
        caller.start()
        for _ in range(2 + 3 + 1):  # all other calls of the three stages
            assert handler.ended.acquire(timeout=GATE_S)
        assert handler.entered.wait(GATE_S)
        clock.advance(31)
        caller.join(GATE_S)
        sender.batch(list(range(100, 108)))
        handler.gate.set()
        sender.batch(list(range(200, 208)))
        handler.lane.join(GATE_S)
        sender.batch([1000])
        sender.device.finish()
        sender.batch([1001])
    sender.look_around(lost_lanes=1)

    assert not sender.problems, traffic


def test_no_alarm_rings_while_streams_change_hands():
    """Inline, a call is bounded by an alarm; what is kept for the device is not at its mercy."""
    armed = []

    class Watched(Using):
        def __enter__(self):
            armed.append(signal.getitimer(signal.ITIMER_REAL)[0] > 0)
            super().__enter__()

        def __exit__(self, *error):
            armed.append(signal.getitimer(signal.ITIMER_REAL)[0] > 0)
            super().__exit__(*error)

    class Timed(Handler):
        def inference(self, payload):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
            return super().inference(payload)

    sender = Sender(Traffic(0), handler_class=Timed, stage_timeout_s=30)
    sender.device.using = lambda stream: Watched(sender.device, stream)
    with sender.pipeline:
        sender.batch([1, 2])

    assert armed == [False] * 6
    assert not sender.problems


def test_what_staging_costs_is_learned_where_there_is_staging(monkeypatch):
    """Calls in lanes are timed with their copy to page-locked memory; whole batches have none."""
    now_s, told = [0.0], []

    class Slow(FakeDevice):
        def fill(self, place, leaf):
            now_s[0] += 5
            super().fill(place, leaf)

    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    device = Slow(Schedule(0))
    observed = Streams(device, pinned_bytes=1 << 16, observe=lambda *call: told.append(call[2]))
    for overlaps in (True, False):
        with observed.work("preprocess", [], 2, overlaps=overlaps) as work:
            work.hand_over(device.host([1, 2]))
        observed.release()

    assert [round(seconds) for seconds in told] == [5, 0]


@pytest.mark.parametrize(
    ("tensor", "copied"),
    [
        (torch.tensor([1.0]), True),
        (torch.tensor([1.0]).to_sparse(), True),
        (torch.tensor(1.0), False),
        (torch.tensor([1.0], device="meta"), False),
        ([1.0], False),
    ],
    ids=["dense", "sparse", "a number", "on another device", "a list"],
)
def test_rows_are_copied_in_and_constants_are_not(tensor, copied):
    """A tensor without a dimension stays on the host, where kernels read it as a number."""
    assert Accelerator(torch.device("cpu")).is_on_host(tensor) == copied


class Asked:
    """An event that does something the first time that it is asked, then has come."""

    def __init__(self, first):
        self._first = [first]

    def query(self):
        if self._first:
            self._first.pop()()
        return True


class Thing:
    """What can be kept, and found gone."""


def test_what_is_done_is_dropped_though_another_lane_was_interrupted_in_dropping():
    """A call never ends with what is done still held because of a lane that lost its turn."""
    stream = Stream(FakeDevice(Schedule(0)), None)
    inside, found = threading.Event(), []
    things = [Thing(), Thing()]
    references = [weakref.ref(each) for each in things]

    def drop_meanwhile():
        inside.wait(GATE_S)
        stream.drop_what_is_done()
        found.extend(each() for each in references if each() is not None)

    other = threading.Thread(target=drop_meanwhile, daemon=True)

    def lose_the_turn():
        inside.set()
        other.join(0.2)  # it comes back at once, unless it waits for this thread

    stream.keep(things.pop(), Asked(lose_the_turn))
    stream.keep(things.pop(), Asked(lambda: None))
    other.start()
    stream.drop_what_is_done()
    other.join(GATE_S)

    assert not other.is_alive()
    assert not found


def test_a_destructor_that_calls_a_stage_drops_nothing_that_is_not_done():
    """Dropping may begin again inside itself, in the same thread; then the outer one goes on."""
    stream = Stream(FakeDevice(Schedule(0)), None)
    done, in_use = Thing(), Thing()
    references = [weakref.ref(done), weakref.ref(in_use)]
    stream.keep(done, Asked(stream.drop_what_is_done))
    stream.keep(in_use, None)
    del done, in_use

    stream.drop_what_is_done()

    assert [each() is None for each in references] == [True, False]


def most_rows(sizes: tuple[int, int, int], lanes: tuple[int, int, int]) -> int:
    """The most rows of payloads on the device, where each size divides the next larger one.

    Whoever holds a payload is one of these: a preprocess lane, which calls or waits for room; the
    inbox of inference, twice its lanes; its lanes; the same for postprocess. What is kept until an
    event comes is let go when the postprocess call ends that waited for the event. Between stages
    of different sizes a group may also wait for rows that nobody has begun, and joining makes a
    copy for the length of a call.
    """
    preprocess, inference, postprocess = lanes
    largest = max(sizes)
    if sizes == (largest,) * 3:
        inputs = preprocess + 3 * inference + 3 * postprocess
        return largest * (inputs + inference + 3 * postprocess)
    begun = preprocess + 3 * inference + 3 * postprocess + 1
    return largest * (2 * begun + inference + postprocess)


class Full(Handler):
    """Postprocess waits until nothing more fits between the stages."""

    def postprocess(self, payload):
        assert self.device.have_come.wait(GATE_S)
        return super().postprocess(payload)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("lanes", [(1, 1, 1), (2, 1, 1), (1, 1, 3), (3, 2, 1), (2, 3, 2)])
def test_so_many_rows_are_on_the_device_and_no_more(size, lanes):
    """While postprocess is slow the stages before it fill up to the bound, and stop there."""
    most = most_rows((size,) * 3, lanes)
    traffic = Traffic(0, sizes=(size,) * 3, lanes=lanes, rows=40 * size, batches=1)
    sender = Sender(traffic, handler_class=Full)
    sender.device.awaited_rows = len(WEIGHTS) + most
    sender.send()

    assert not sender.problems
    assert sender.device.peak_rows - len(WEIGHTS) == most


@pytest.mark.parametrize(
    "sizes", [(1, 4, 4), (4, 1, 4), (4, 4, 1), (1, 2, 4), (4, 2, 1), (2, 4, 1)]
)
@pytest.mark.parametrize("lanes", [(1, 1, 1), (3, 2, 1), (2, 3, 2)])
def test_with_cuts_and_joins_no_more_rows_are_on_the_device(sizes, lanes):
    """However late the device is and whoever is slow, the bound holds."""
    for seed in range(0, 24, 3):
        traffic = Traffic(seed, sizes=sizes, lanes=lanes, rows=60, batches=1)
        sender = Sender(traffic)
        sender.send()

        assert not sender.problems
        assert sender.device.peak_rows - len(WEIGHTS) <= most_rows(sizes, lanes)
