"""The engine: batches through stages, lanes and regrouping."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.crowd import together
from harness.fixtures import collected, lanes
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import LengthError, PayloadError, StageError
from micro_batch_handler.pipeline.device.thread_state import ThreadState, use_threads
from micro_batch_handler.pipeline.payloads.operations import CUT_AND_JOIN
from micro_batch_handler.pipeline.pipeline import Pipeline
from micro_batch_handler.pipeline.recovery import Policy
from micro_batch_handler.pipeline.regroup import bounds
from tests.fakes import plan, stages

GATE_S = 30
"""How long a gate may take to open before a test fails; never reached when the code is right."""

HANG_S = 300
"""After how long a process counts as hanging: only to import PyTorch may take half a minute."""


@pytest.fixture(scope="module")
def doubling():
    """A pipeline whose answer to row x is 2 x, with calls that take a random moment."""
    moments = random.Random(7)

    def slow(function):
        def call(payload):
            time.sleep(moments.random() * 5e-4)
            return function(payload)

        return call

    functions = stages(
        slow(torch.tensor), slow(lambda batch: batch * 2), slow(lambda outputs: outputs.tolist())
    )
    with Pipeline(functions, PerStage(3, 2, 2)) as pipeline:
        yield pipeline


@given(st.integers(0, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_answers_stand_in_the_order_of_the_requests(doubling, rows, first, second, third):
    """Whatever the sizes and whoever finishes first, answer i belongs to request i."""
    outcomes = doubling.run(list(range(rows)), plan(first, second, third))

    assert [2 * row for row in range(rows)] == outcomes.answers
    assert {} == outcomes.failures


@pytest.mark.parametrize("sizes", [(1, 16, 8), (8, 3, 5), (4, 4, 4), (7, 1, 20)])
@pytest.mark.parametrize("rows", [17, 32])
def test_every_stage_sees_exactly_the_planned_micro_batches(sizes, rows):
    """The calls of each stage have the sizes that the plan cuts, no more and no fewer."""
    seen: dict[str, list[int]] = {stage: [] for stage in STAGES}

    def record(stage):
        def call(payload):
            seen[stage].append(len(payload))
            return list(payload)

        return call

    with Pipeline(stages(*(record(stage) for stage in STAGES)), PerStage(2, 2, 2)) as pipeline:
        pipeline.run(list(range(rows)), plan(*sizes))

    planned = [sorted(b - a for a, b in bounds(rows, size)) for size in sizes]
    assert planned == [sorted(seen[stage]) for stage in STAGES]


def test_a_batch_that_fits_one_micro_batch_runs_in_the_callers_thread():
    """No hand-over where nothing can overlap."""
    threads = set()

    def note(payload):
        threads.add(threading.current_thread())
        return payload

    with Pipeline(stages(note, note, note), PerStage(1, 1, 1)) as pipeline:
        pipeline.run([1, 2, 3], plan(4))

    assert {threading.current_thread()} == threads


def test_the_three_stages_work_at_the_same_time():
    """Preprocess of row 2, inference of row 1 and postprocess of row 0 meet at one barrier."""
    meeting = threading.Barrier(3)

    def meets(row):
        def call(payload):
            if payload == [row]:
                meeting.wait(GATE_S)
            return payload

        return call

    with Pipeline(stages(meets(2), meets(1), meets(0)), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([0, 1, 2], plan(1))

    assert {} == outcomes.failures


def test_the_lanes_of_a_stage_work_at_the_same_time():
    """Three preprocess lanes meet at one barrier, each with a micro-batch of its own."""
    meeting = threading.Barrier(3)

    def meet(payload):
        meeting.wait(GATE_S)
        return payload

    with Pipeline(stages(meet), PerStage(3, 1, 1)) as pipeline:
        outcomes = pipeline.run([0, 1, 2], plan(1))

    assert {} == outcomes.failures


@pytest.mark.parametrize("order", [(1, 3, 4), (4, 1, 2), (2, 4, 1)])
def test_as_many_lanes_work_as_the_plan_says(order):
    """One batch after the other in the same pipeline; the other lanes take no micro-batch."""
    threads = set()
    meetings = {count: threading.Barrier(count) for count in order}
    wanted = 0

    def meet(payload):
        threads.add(threading.current_thread())
        meetings[wanted].wait(GATE_S)
        return payload

    with Pipeline(stages(meet), PerStage(4, 1, 1)) as pipeline:
        for wanted in order:
            threads.clear()
            outcomes = pipeline.run(list(range(4 * wanted)), plan(1).with_lanes((wanted, 1, 1)))
            assert outcomes.failures == {}
            assert len(threads) == wanted
        meetings[wanted] = threading.Barrier(4)
        pipeline.run(list(range(4)), plan(1))  # all of them


def test_a_pipeline_whose_lanes_wait_is_closed():
    """Lanes that take no micro-batch end as the others do."""
    others = set(threading.enumerate())
    with Pipeline(stages(), PerStage(4, 1, 4)) as pipeline:
        pipeline.run(list(range(8)), plan(1).with_lanes((1, 1, 2)))
        lanes = set(threading.enumerate()) - others

    assert len(lanes) == 4 + 1 + 4
    assert not any(lane.is_alive() for lane in lanes)


def test_a_fast_stage_does_not_pile_up_payloads():
    """While inference stands still, preprocess stops after the few that its inbox holds."""
    gate = threading.Event()
    started = []

    def count(payload):
        started.append(payload)
        return payload

    def hold(payload):
        gate.wait(GATE_S)
        return payload

    with Pipeline(stages(count, hold), PerStage(1, 1, 1)) as pipeline:
        caller = threading.Thread(target=pipeline.run, args=(list(range(50)), plan(1)))
        caller.start()
        # One with inference, two in its inbox, one in the hand of the preprocess lane.
        deadline = time.monotonic() + GATE_S
        while len(started) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        in_flight = len(started)
        gate.set()
        caller.join()

    assert (4, 50) == (in_flight, len(started))


@pytest.mark.parametrize("change", [-1, +1])
@pytest.mark.parametrize("kind", [list, torch.tensor], ids=["list", "tensor"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_result_of_wrong_length_names_stage_and_numbers(stage, kind, change):
    """One answer too few or too many is an error of the request that causes it, and of no other."""

    def wrong(payload):
        rows = list(payload)
        if 4 in rows:
            rows = rows[:-1] if change < 0 else [*rows, 99]
        return rows if stage == "postprocess" else kind(rows)

    functions = {**stages(kind), stage: stages(wrong, wrong, wrong)[stage]}
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(9)), plan(3))

    assert {4} == outcomes.failures.keys()
    error = outcomes.failures[4].error
    assert isinstance(error, LengthError)
    assert str(error).startswith(f"{stage}: got 1 rows but returned {1 + change}")
    assert [0, 1, 2, 3, 5, 6, 7, 8] == [a for i, a in enumerate(outcomes.answers) if i != 4]


@pytest.mark.parametrize("stage", STAGES)
def test_wrong_lengths_that_cancel_out_do_not_shift_answers(stage):
    """One row too many in one micro-batch and one too few in the next: two fail, none shifts."""

    def wrong(payload):
        rows = list(payload)
        return {0: [*rows, 99], 2: rows[:-1]}.get(rows[0], rows)

    functions = {**stages(), stage: stages(wrong, wrong, wrong)[stage]}
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run(list(range(6)), plan(2))

    assert {0, 2} == outcomes.failures.keys()
    assert [1, 3, 4, 5] == [outcomes.answers[i] for i in (1, 3, 4, 5)]


@pytest.mark.parametrize(
    "result",
    [None, {"a": 1, "b": 2}, "ab", torch.zeros(2), (1, 2), (x for x in "ab"), 2],
    ids=lambda result: type(result).__name__,
)
def test_postprocess_must_return_a_list(result):
    """Anything but a list of answers is refused, however many rows it seems to have."""
    with Pipeline(stages(postprocess=lambda _: result), PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2], plan(2))

    assert {StageError} == {type(failure.error) for failure in outcomes.failures.values()}
    assert "must return a list of answers" in str(outcomes.failures[0].error)


def test_an_opaque_payload_passes_between_stages_of_equal_size():
    """Where nothing is regrouped, a payload may be anything."""

    class Opaque:
        def __init__(self, rows):
            self.rows = rows

    functions = stages(Opaque, postprocess=lambda opaque: opaque.rows)
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2, 3, 4], plan(2))

    assert [1, 2, 3, 4] == outcomes.answers


def test_a_payload_that_cannot_be_regrouped_names_stage_type_and_hooks():
    """Uncut it is answered, and what is kept says what returned it and which hooks to override."""
    functions = stages(lambda rows: str(len(rows)), postprocess=lambda text: [text] * int(text))
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        outcomes = pipeline.run([1, 2], plan(1, 2, 2))

    assert ["2", "2"] == outcomes.answers
    error = outcomes.rescued[0].error
    assert isinstance(error, PayloadError)
    assert str(error) == (
        "preprocess: returned what cannot be regrouped: the payload is str, which is not made of "
        "rows. Give both stages the same micro_batch_size, or override "
        "cut_payload(payload, start, stop) and join_payloads(payloads) in the handler"
    )


def test_batches_of_several_callers_do_not_mix(doubling):
    """Eight threads that run batches through one pipeline each get their own answers."""
    answers = {}

    def caller(number):
        rows = list(range(100 * number, 100 * number + 20))
        answers[number] = [doubling.run(rows, plan(3, 4, 5)).answers for _ in range(5)]

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == {n: [[2 * row for row in range(100 * n, 100 * n + 20)]] * 5 for n in range(8)}


def test_batches_under_way_at_once_share_the_lanes():
    """While one batch is in inference the next one is in preprocess; no stage has two threads."""
    second = threading.Event()

    def preprocess(rows):
        if "second" in rows:
            second.set()
        return rows

    def inference(batch):
        assert "first" not in batch or second.wait(GATE_S)
        return batch

    with Pipeline(stages(preprocess, inference), PerStage(1, 1, 1), stage_timeout_s=60) as pipeline:
        answers = together(
            2, lambda number: pipeline.run([("first", "second")[number]], plan(1)).answers
        )

    assert answers == [["first"], ["second"]]


@pytest.mark.parametrize("how", ["whole", "by the class beside"])
def test_a_batch_whose_stages_are_called_elsewhere_than_in_their_lanes_runs_alone(how):
    """What its preprocess leaves for its inference stays there: others wait until it is done."""
    begun, came = threading.Event(), threading.Event()
    kept: list[str] = []

    def preprocess(rows):
        if begun.is_set():
            came.set()
        kept[:] = rows
        return rows

    def inference(batch):
        if not begun.is_set():
            begun.set()
            came.wait(0.2)  # others come meanwhile, if they may
        return kept[: len(batch)]

    with Pipeline(stages(preprocess, inference), PerStage(1, 1, 2), stage_timeout_s=60) as pipeline:

        def alone(row):
            if how == "whole":
                return pipeline.run([row], plan(1), serial=[[0]]).answers
            return pipeline.call_alone(lambda: inference(preprocess([row])))

        def run(number):
            if number:
                assert begun.wait(GATE_S)
            return alone(str(number))

        assert together(3, run) == [["0"], ["1"], ["2"]]


def test_side_effects_of_a_call_count_only_if_its_result_does():
    """What a call wants kept is kept after its result was checked, and not if it failed."""
    kept = []

    def function(_tag, call, payload):
        indices = call.micro_batch.indices
        return payload[:-1] if 1 in payload else list(payload), lambda: kept.extend(indices)

    functions = {**stages(), "postprocess": function}
    with Pipeline(functions, PerStage(1, 1, 1)) as pipeline:
        pipeline.run([0, 1, 2], plan(1))

    assert [0, 2] == kept


def test_close_ends_the_lanes_and_may_be_called_again():
    """After close there is no lane, and a batch is refused."""
    before = lanes()
    pipeline = Pipeline(stages(), PerStage(2, 1, 3))
    assert len(lanes()) == len(before) + 6

    pipeline.close()
    pipeline.close()

    assert before == lanes()
    with pytest.raises(RuntimeError, match="closed"):
        pipeline.run([1], plan(1))


def test_a_forgotten_pipeline_is_collected_with_its_lanes():
    """Nobody needs to call close: idle lanes keep nothing alive and end with their owner."""
    pipeline = Pipeline(stages(), PerStage(2, 1, 1))
    pipeline.run(list(range(8)), plan(1))
    gone = weakref.ref(pipeline)

    del pipeline

    assert collected(lambda: gone() is None)


def test_an_idle_lane_keeps_no_payload_alive():
    """After a batch nothing of it stays in memory, neither payloads nor errors."""

    class Payload(list):
        pass

    made = []

    def preprocess(rows):
        payload = Payload(rows)
        made.append(weakref.ref(payload))
        if rows == [2]:
            raise ValueError
        return payload

    with Pipeline(stages(preprocess), PerStage(2, 1, 1)) as pipeline:
        pipeline.run([1, 2, 3, 4], plan(1))
        first = list(made)

        assert collected(lambda: not any(payload() for payload in first))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (torch.enable_grad, (True, False, False, torch.bfloat16)),
        (torch.no_grad, (False, False, False, torch.bfloat16)),
        (torch.inference_mode, (False, True, False, torch.bfloat16)),
        (
            lambda: torch.autocast("cpu", dtype=torch.float16),
            (True, False, True, torch.float16),
        ),
    ],
)
def test_lanes_take_over_what_pytorch_keeps_per_thread(context, expected):
    """Gradients, inference mode and autocast are in the lanes as where the pipeline was made."""
    seen = set()

    def note(payload):
        mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        seen.add((*mode, *autocast))
        return payload

    with context():
        state = ThreadState.capture()
    with Pipeline(
        stages(note), PerStage(1, 1, 1), lane_setup=lambda _stage: state.apply()
    ) as pipeline:
        pipeline.run([1, 2], plan(1))

    assert {expected} == seen


def test_lanes_keep_the_number_of_threads_that_they_are_given():
    """PyTorch computes in so many threads, though other stages' lanes set their own later."""
    wanted = {"preprocess": 1, "inference": 3, "postprocess": 2}
    every_lane = threading.Barrier(3, timeout=GATE_S)
    seen = {}

    def setup(stage):
        use_threads(wanted[stage])
        every_lane.wait()

    def noting(stage):
        def note(payload):
            seen[stage] = torch.get_num_threads()
            return payload

        return note

    functions = stages(*map(noting, STAGES))
    with Pipeline(functions, PerStage(1, 1, 1), lane_setup=setup) as pipeline:
        pipeline.run([1, 2], plan(1))

    assert wanted == seen


def test_a_lane_survives_a_failing_setup(caplog):
    """A lane that cannot be set up says so and works, rather than leave its batch waiting."""

    def broken(_stage):
        raise RuntimeError("no such device")

    with Pipeline(stages(), PerStage(1, 1, 1), lane_setup=broken) as pipeline:
        outcomes = pipeline.run([1, 2], plan(1))

    assert [1, 2] == outcomes.answers
    assert "no such device" in caplog.text


def test_a_pipeline_shows_its_state():
    """The representation names each stage with its lanes and what waits there."""
    with Pipeline(stages(), PerStage(2, 1, 1), CUT_AND_JOIN) as pipeline:
        assert repr(pipeline) == (
            "<Pipeline preprocess: 2 lanes, 0 waiting | inference: 1 lanes, 0 waiting"
            " | postprocess: 1 lanes, 0 waiting>"
        )


def test_groups_without_rows_are_not_called():
    """Neither alone nor among others."""
    rows = []
    with Pipeline(
        stages(lambda payload: rows.append(len(payload)) or payload), PerStage.of(1)
    ) as it:
        nothing = it.run([], plan(2), serial=[range(0)])
        answers = it.run([5], plan(2), serial=[range(0), range(1)]).answers

    assert not nothing.failures
    assert answers == [5]
    assert rows == [1]


def test_a_batch_that_loses_a_row_blames_the_stage_that_lost_it():
    """Without a second call too, the error names that stage, and not the last one."""
    lossy = stages(inference=lambda payload: payload[:-1])
    with Pipeline(lossy, PerStage.of(1), policy=Policy(isolate=False)) as pipeline:
        outcomes = pipeline.run([1, 2, 3, 4], plan(4), serial=[range(2), range(2, 4)])

    assert {"inference"} == {failure.error.stage for failure in outcomes.failures.values()}


EXITS = """
import atexit, sys, threading
atexit.register(print, "the handler before")
import torch
from micro_batch_handler.config import PerStage
from micro_batch_handler.pipeline import lane_pool
from micro_batch_handler.pipeline.pipeline import Pipeline
from tests.fakes import plan, stages

busy = threading.Event()

def work(payload):
    rows = torch.ones(64, 64)
    while True:
        (rows @ rows)[:2].clone().tolist()
        busy.set()

lane_pool.EXIT_PATIENCE_S = 0
pipeline = Pipeline(stages(inference=work), PerStage.of(1))
run = threading.Thread(target=pipeline.run, args=(list(range(4)), plan(2)), daemon=True)
run.start()
busy.wait()
sys.exit(3)
"""


@pytest.mark.timeout(2 * HANG_S)
def test_a_process_that_ends_while_lanes_work_is_not_aborted():
    """A lane that stays inside PyTorch neither takes the process down nor holds it up."""
    ended = subprocess.run(
        [sys.executable, "-c", EXITS], capture_output=True, text=True, timeout=HANG_S, check=False
    )

    assert ended.returncode == 3, ended.stderr
    assert ended.stdout.endswith("the handler before\n")
