"""Batches through a pipeline on a fake device, drawn from a seed, and checks of their outcomes."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.pipeline.device.streams import Streams
from micro_batch_handler.pipeline.micro_batch import Part
from micro_batch_handler.pipeline.payloads.operations import PayloadOps
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.planning.planner import Plan
from tests.pipeline.fake_device import FakeDevice, FakeTensor, Observer, Schedule

WEIGHTS = [7, 11]


@dataclass(frozen=True)
class Traffic:
    """Batches, and the pipeline that they are sent through."""

    seed: int
    sizes: tuple[int, int, int] = (2, 2, 2)
    lanes: tuple[int, int, int] = (1, 1, 1)
    rows: int = 6
    batches: int = 2
    callers: int = 1
    """Threads that call the pipeline at the same time."""

    shape: str = "tensor"
    """What preprocess returns: a tensor, columns, or a list of tensors."""

    made: str = "host"
    """Where preprocess makes it: on the host (dense or sparse), the device, or a column on each."""

    inference: str = "plain"
    """What inference launches: one kernel, several, one that changes its input, or none."""

    answers: str = "values"
    """What postprocess returns: numbers, tensors, or host tensors that are still being copied."""

    copy_in: bool = True
    copy_out: bool = False
    pinned_bytes: int = 1 << 16
    pinned: bool = True
    capacity_rows: int | None = None
    """The rows that fit into the device's memory beside the weights; None for any number."""

    timed: bool = True
    """Whether calls are timed, which needs more events."""

    fault: str | None = None
    """What happens at one row: an error always or once, too little memory, or a failing wait."""

    fault_stage: str = "inference"
    fault_row: int = 0

    @classmethod
    def drawn(cls, seed: int) -> Traffic:
        """A traffic that the seed chooses."""
        pick = Random(seed)
        rows = pick.randint(1, 9)
        made = pick.choice(["host", "host", "device", "half", "sparse"])
        return cls(
            seed,
            sizes=(pick.randint(1, 4), pick.randint(1, 4), pick.randint(1, 4)),
            lanes=(pick.randint(1, 3), pick.randint(1, 3), pick.randint(1, 3)),
            rows=rows,
            batches=pick.randint(1, 3),
            callers=pick.choice([1, 1, 1, 2]),
            shape="columns" if made == "half" else pick.choice(["tensor", "columns", "list"]),
            made=made,
            inference=pick.choice(["plain", "deep", "in place", "identity"]),
            answers=pick.choice(["values", "tensors", "copies"]),
            copy_in=made == "half" or pick.random() < 0.8,
            copy_out=pick.random() < 0.5,
            pinned_bytes=pick.choice([0, 4096, 1 << 16, 1 << 16]),
            pinned=pick.random() < 0.9,
            fault=pick.choice([None, None, None, "always", "once", "memory", "wait"]),
            fault_stage=pick.choice(STAGES),
            fault_row=pick.randrange(rows),
        )

    def right(self, row: int) -> list[int]:
        """The right answer to a row: a number for each column."""
        inputs = [3 * row + 1] + ([row + 5] if self.shape == "columns" else [])
        if self.inference == "identity":
            return inputs
        return weigh(WEIGHTS, *([value] for value in inputs))


def weigh(weights: list[int], *inputs: list[int]) -> list[int]:
    """What the model computes."""
    return [
        weights[0] * first + weights[1] * sum(others)
        for first, *others in zip(*inputs, strict=True)
    ]


def columns(payload: Any) -> list[Any]:
    """A payload's columns; a list of rows is a single column."""
    return list(payload) if isinstance(payload, tuple) else [payload]


def count(payload: Any) -> int:
    """The number of a payload's rows."""
    return len(columns(payload)[0])


def cut(payload: Any, start: int, stop: int) -> Any:
    """Some rows of a payload, as views."""
    if isinstance(payload, tuple):
        return tuple(column[start:stop] for column in payload)
    return payload[start:stop]


class Handler:
    """The stages that a traffic describes."""

    def __init__(self, traffic: Traffic, device: FakeDevice) -> None:
        self.traffic = traffic
        self.device = device
        # As a model is loaded: in the default stream, and nobody waits.
        self.weights = device.kernel(lambda: list(WEIGHTS), rows=len(WEIGHTS))
        self.calls = Counter[str]()
        self.fault = traffic.fault
        self._lock = threading.Lock()

    @property
    def functions(self) -> dict[str, Any]:
        """The function of each stage, with the traffic's fault."""
        return {stage: self._guarded(stage, getattr(self, stage)) for stage in STAGES}

    @property
    def ops(self) -> PayloadOps:
        """How payloads are cut and joined."""
        return PayloadOps(count, count, cut, self.join)

    def preprocess(self, rows: list[int]) -> Any:
        firsts = [3 * row + 1 for row in rows]
        if self.traffic.shape == "list":
            return [self._make([first]) for first in firsts]
        if self.traffic.shape == "tensor":
            return self._make(firsts)
        return self._make(firsts), self._make([row + 5 for row in rows], second=True)

    def inference(self, payload: Any) -> Any:
        device, kind = self.device, self.traffic.inference
        if kind == "identity":
            return payload
        first, *others = [self._tensor(column) for column in columns(payload)]
        if kind == "in place":
            return device.change(
                lambda first, weights, *others: weigh(weights, first, *others),
                first,
                self.weights,
                *others,
            )
        if kind == "deep":
            for step in (5, 6, -11):
                first = device.kernel(lambda v, step=step: [x + step for x in v], first)
        return device.kernel(weigh, self.weights, first, *others, rows=len(first))

    def postprocess(self, payload: Any) -> list[Any]:
        answers = [self._answer(column) for column in columns(payload)]
        return [list(answer) for answer in zip(*answers, strict=True)]

    def join(self, payloads: list[Any]) -> Any:
        first = payloads[0]
        if isinstance(first, tuple):
            return tuple(self.join(list(column)) for column in zip(*payloads, strict=True))
        if isinstance(first, list):
            return [row for payload in payloads for row in payload]
        if first.on_host:
            return self.device.host([value for each in payloads for value in each.values()])
        return self.device.kernel(
            lambda *parts: [value for part in parts for value in part],
            *payloads,
            rows=sum(len(each) for each in payloads),
        )

    def _make(self, values: list[int], *, second: bool = False) -> FakeTensor:
        """A tensor for inference."""
        made = self.traffic.made
        if made == "device" or (made == "half" and second):
            zeros = self.device.to_device(self.device.host([0] * len(values)))
            return self.device.kernel(lambda _: values, zeros)
        return self.device.host(values, dense=made != "sparse")

    def _tensor(self, column: Any) -> FakeTensor:
        """A column as one tensor on the device."""
        if isinstance(column, list):
            column = self.join(column) if len(column) > 1 else column[0]
        assert not (column.on_host and self.traffic.copy_in), "nobody copied it in"
        return self.device.to_device(column) if column.on_host else column

    def _answer(self, column: Any) -> list[Any]:
        """A column of the answers."""
        device, kind = self.device, self.traffic.answers
        assert isinstance(column, list) or column.on_host or not self.traffic.copy_out
        if isinstance(column, list):
            column = self.join(column) if len(column) > 1 else column[0]
        if kind == "values":
            return column.values()
        if not column.on_host:
            column = device.kernel(lambda values: values, column)
            if kind == "copies":
                copy = device.host([0] * len(column))
                device.to_host(column, copy)
                column = copy
        return [column[row : row + 1] for row in range(len(column))]

    def _guarded(self, stage: str, function: Any) -> Any:
        """The stage with its fault, which comes after its kernels were launched."""

        def guarded(_tag: Any, call: Any, payload: Any) -> tuple[Any, None]:
            result = function(payload)
            if (
                stage == self.traffic.fault_stage
                and self.traffic.fault_row in call.micro_batch.indices
            ):
                self._fail()
            with self._lock:
                self.calls[stage] += 1
            return result, None

        return guarded

    def _fail(self) -> None:
        with self._lock:
            fault = self.fault
            if fault != "always":
                self.fault = None
        if fault == "wait":
            self.device.failing_waits = 1
        elif fault == "memory":
            raise torch.OutOfMemoryError
        elif fault is not None:
            raise ValueError(fault)


class Sender:
    """A pipeline with a handler, on a device.

    Args:
        traffic: what to send.
        observer: of the device.
        handler_class: the stages.
        pipeline: more of its arguments.
    """

    def __init__(
        self,
        traffic: Traffic,
        observer: Observer | None = None,
        handler_class: type[Handler] = Handler,
        **pipeline: Any,
    ) -> None:
        self.traffic = traffic
        self.problems: list[str] = []
        self.device = FakeDevice(Schedule(traffic.seed), pinned=traffic.pinned, observer=observer)
        if traffic.capacity_rows is not None:
            self.device.capacity_rows = len(WEIGHTS) + traffic.capacity_rows
        self.handler = handler_class(traffic, self.device)
        self.observed = Counter[str]()
        self.streams = Streams(
            self.device,
            copy_in=traffic.copy_in,
            copy_out=traffic.copy_out,
            pinned_bytes=traffic.pinned_bytes,
            observe=self._observe if traffic.timed else None,
        )
        self._plan = Plan(*traffic.sizes)
        self.pipeline = Pipeline(
            self.handler.functions,
            PerStage(*traffic.lanes),
            self.handler.ops,
            streams=self.streams,
            **pipeline,
        )

    def send(self) -> None:
        """Send the traffic and then two single rows; check that nothing is held afterwards."""
        with self.pipeline:
            self._from_all_callers()
            self.handler.fault = None
            for row in range(2):
                self.batch([10_000 + row])
                self.device.finish()
        self.look_around()

    def batch(self, rows: list[int], failing: Container[int] | None = None) -> None:
        """Send these rows and check their answers.

        Args:
            rows: each a number.
            failing: the places of those that must fail; the traffic's own, if None.
        """
        if failing is None:
            failing = {self.traffic.fault_row} if self.handler.fault == "always" else set()
        outcomes = self.pipeline.run(rows, self._plan)
        for index, row in enumerate(rows):
            failure = outcomes.failures.get(index)
            if (failure is not None) != (index in failing):
                error = "nothing" if failure is None else repr(failure.error)
                self.problems.append(f"row {index} failed with {error}")
            elif failure is None:
                # A tensor's values, as its client reads them: with no thought of streams.
                found = [
                    value.values()[0] if isinstance(value, FakeTensor) else value
                    for value in outcomes.answers[index]
                ]
                if found != self.traffic.right(row):
                    self.problems.append(f"{found} instead of {self.traffic.right(row)}")
        for failure in (*outcomes.failures.values(), *outcomes.retried, *outcomes.rescued):
            failure.error.__traceback__ = None  # its frames hold the batch, in a circle
        if self.device.current is not self.device.default:
            self.problems.append("the caller is left in another stream")

    def look_around(self, lost_lanes: int = 0) -> None:
        """Check what is still held once all lanes have ended; the last batch had one row."""
        last_row = len(WEIGHTS) + 2
        if (live_rows := self.device.count_live_rows()) > last_row:
            self.problems.append(f"{live_rows} rows are kept, of one batch of one row")
        self.streams.release()
        if (live_rows := self.device.count_live_rows()) != len(WEIGHTS):
            self.problems.append(f"{live_rows} rows are kept for ever")
        made = list(self.device.pinned_bytes)
        back = [self.streams.pinned.take(size_bytes) for size_bytes in made]
        if len({id(buffer) for buffer in back}) < len(made) or self.device.pinned_bytes != made:
            self.problems.append("not every pinned buffer came back, to one call at a time")
        most = 3 + self.traffic.lanes[1] + lost_lanes
        if len(self.device.streams) > most:
            self.problems.append(f"{len(self.device.streams)} streams instead of {most}")
        # Where memory runs out, copies fail behind a good call.
        timed = self.traffic.timed and self.traffic.capacity_rows is None
        if timed and self.observed != self.handler.calls:
            self.problems.append(f"{self.observed} were timed of {self.handler.calls}")

    def _observe(self, stage: str, _rows: int, _seconds: float) -> None:
        self.observed.update([stage])

    def _from_all_callers(self) -> None:
        def call(caller: int) -> None:
            for batch in range(self.traffic.batches):
                first = 1000 * caller + 100 * batch
                self.batch(list(range(first, first + self.traffic.rows)))

        callers = [
            threading.Thread(target=call, args=(caller,), daemon=True)
            for caller in range(1, self.traffic.callers)
        ]
        for thread in callers:
            thread.start()
        call(0)
        for thread in callers:
            thread.join()


def problems(traffic: Traffic, observer: Observer | None = None) -> list[str]:
    """Everything that goes wrong when a traffic is sent."""
    sender = None
    try:
        sender = Sender(traffic, observer)
        sender.send()
    except Exception as error:
        return [*(sender.problems if sender else []), repr(error)]
    return sender.problems


class _Losing(Handler):
    """Loses the device during a call of the traffic's `fault_stage`."""

    @property
    def functions(self) -> dict[str, Any]:
        functions = super().functions
        stage = self.traffic.fault_stage
        functions[stage] = self._losing(functions[stage])
        return functions

    def _losing(self, function: Any) -> Any:
        def losing(tag: Any, call: Any, payload: Any) -> Any:
            result = function(tag, call, payload)
            self.device.lost |= self.traffic.fault_row in call.micro_batch.indices
            return result

        return losing


LOST = Traffic(0, inference="in place", rows=6, sizes=(1, 2, 1), fault_row=2)
"""Traffic during which the device is lost while other rows are on it."""


def problems_when_lost(traffic: Traffic = LOST) -> list[str]:
    """What goes wrong when the device is lost; it may still write to all that it was given.

    Nor may anything be freed that streams have used, whoever lets go of it: that aborts.
    """
    sender = Sender(traffic, handler_class=_Losing)
    device = sender.device
    with sender.pipeline:
        outcomes = sender.pipeline.run(list(range(traffic.rows)), Plan(*traffic.sizes))
        found = [] if outcomes.fatal else ["nobody noticed"]
        with suppress(RuntimeError):
            device.synchronize()  # as of now this thread knows
        if len(outcomes.failures) + sum(each is not None for each in outcomes.answers) < len(
            outcomes.answers
        ):
            found.append("not all are answered")
        for failure in outcomes.failures.values():
            failure.error.__traceback__ = None
        del outcomes
    del sender
    gc.collect()
    if device.aborts:
        found.append(f"aborted {device.aborts} times")
    return found


def problems_without_event() -> list[str]:
    """What goes wrong when no event can be recorded for a call, whose work may then never end."""
    device = FakeDevice(Schedule(0))
    streams = Streams(device)
    with streams.work("inference", [Part(_made(device), 2, 0, 2)], 2):
        device.failing_records = 1
    streams.release()
    return [] if device.count_live_rows() else ["freed"]


def problems_when_told_by_an_event() -> list[str]:
    """What goes wrong when another thread loses the device after the last step of a good call."""
    device = FakeDevice(Schedule(0))
    _lose_after_a_good_call(device)
    gc.collect()
    return [f"aborted {device.aborts} times"] if device.aborts else []


def _lose_after_a_good_call(device: FakeDevice) -> None:
    part = _preprocessed(device, streams := Streams(device))
    with streams.work("inference", [part], 2) as work:
        work.hand_over(device.change(lambda values: values, work.take_in(part.payload)))
        device.lost = True


def problems_of_release() -> list[str]:
    """What goes wrong when everything is released and a failed call's work is not done yet."""
    device = FakeDevice(Schedule(0))
    streams = Streams(device)
    with suppress(ValueError), streams.work("inference", [Part(_made(device), 2, 0, 2)], 2):
        raise ValueError
    found = [] if device.current is device.default else ["left in the stage's stream"]
    streams.release()
    if device.count_live_rows() or device.cached_rows:
        found.append("kept")
    return found


def problems_after_a_failure() -> list[str]:
    """What goes wrong when a call fails whose kernel will still write to the call's inputs.

    In one thread and one order: no thread has to be quick for the fault to show.
    """
    device = FakeDevice(Schedule(0))  # does only what somebody waits for
    streams = Streams(device)
    _fail_while_changing(device, streams)
    # Behind it comes a tensor of the same size, which gets the block if that is free.
    part = _preprocessed(device, streams)
    device.wait_for(part.done)
    device.finish()
    found = part.payload.values()
    return [] if found == [1, 2] else [f"{found} instead of [1, 2]"]


def _fail_while_changing(device: FakeDevice, streams: Streams) -> None:
    part = _preprocessed(device, streams)
    with suppress(ValueError), streams.work("inference", [part], 2) as work:
        device.change(lambda values: [-value for value in values], work.take_in(part.payload))
        raise ValueError


def _preprocessed(device: FakeDevice, streams: Streams) -> Part:
    with streams.work("preprocess", [], 2) as work:
        made = work.hand_over(_made(device))
    return Part(made, 2, 0, 2, work.done)


def _made(device: FakeDevice) -> FakeTensor:
    return device.kernel(lambda: [1, 2], rows=2)
