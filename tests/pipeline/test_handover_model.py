"""Every order of events of small hand-overs ends, and well; with a mistake planted, not."""

from __future__ import annotations

import random
from itertools import permutations, product

import pytest

from micro_batch_handler.pipeline.micro_batch import MicroBatch, Part
from micro_batch_handler.pipeline.recovery import Policy
from micro_batch_handler.pipeline.recovery import retries as real_retries
from micro_batch_handler.pipeline.regroup import Regroup, bounds
from tests.pipeline.device_model import DEVICE_MISTAKES, Device, DeviceCase
from tests.pipeline.explore import explore
from tests.pipeline.handover_cases import CASES, DEVICE_CASES, ONE
from tests.pipeline.handover_model import MISTAKES, Batch, Case, Handover, retries, settle
from tests.pipeline.handover_replay import Replay

FOUND = {
    "retry into the first inbox": (
        Case(rows=7, lanes=ONE, capacity=1, first_capacity=1, bad=frozenset({(2, 0)})),
        "the caller waits for ever",
    ),
    "permit lost on failure": (Case(lanes=ONE, faults=1), "the caller waits for ever"),
    "permit held while handing on": (
        Case(lanes=ONE, capacity=1, faults=1),
        "the caller waits for ever",
    ),
    "no permit for repeating": (Case(faults=1), "preprocess runs in more than 2 threads"),
    "late result counts": (Case(hangs=1), "(0,) came twice to inference"),
    "rest lost": (
        Case(rows=4, sizes=(2, 2, 2), lanes=ONE, hangs=1, faults=1),
        "the caller waits for ever",
    ),
    "lane lost": (Case(lanes=ONE, hangs=1), "the caller waits for ever"),
    "watch hands on": (
        Case(rows=9, sizes=(4, 3, 3), lanes=ONE, capacity=1, hangs=2),
        "the caller waits for ever",
    ),
    "group waits for ever": (Case(sizes=(1, 3, 1), faults=2), "the caller waits for ever"),
    "later groups wait for ever": (
        Case(sizes=(1, 1, 3), bad=frozenset({(0, 1)})),
        "the caller waits for ever",
    ),
    "freed late": (
        Case(rows=4, sizes=(2, 3, 3), lanes=ONE, expires=frozenset({2}), hangs=1),
        "the caller waits for ever",
    ),
    "stopped runs begin calls": (
        Case(isolate=False, faults=1),
        "the caller is back while a call of its batch runs",
    ),
    "stop does not wait": (
        Case(isolate=False, faults=1),
        "the caller is back while a call of its batch runs",
    ),
}
"""For each mistake a case that shows it, and what is then wrong."""

FOUND_ON_DEVICE = {
    "no wait": (DeviceCase(), "inference (0,) reads memory that is not yet written"),
    "visible before its event": (
        DeviceCase(),
        "inference (0,) reads memory that is not yet written",
    ),
    "dropped after the host call": (DeviceCase(), "inference (0,) reads freed memory"),
    "dropped by failure": (DeviceCase(fails=1), "inference (0,) reads freed memory"),
    "host does not wait": (DeviceCase(), "Python (0,) reads memory that is not yet written"),
    "waits for events to come": (
        DeviceCase(groups=(((0,), (1,)),) * 3, one_copy_stream=True),
        "streams wait for each other",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_whatever_happens_in_whatever_order_all_requests_get_one_outcome(name):
    """All orders end, with a right outcome for each request, and all lanes and permits free."""
    case, outcomes = CASES[name]

    found = explore(Handover(case))

    assert not found.problem, found
    assert {end.outcomes for end in found.ends} == outcomes, found


@pytest.mark.parametrize("name", DEVICE_CASES)
def test_no_stream_reads_what_is_not_there(name):
    """However late the streams are, each kernel reads what its producer wrote, and all ends."""
    found = explore(Device(DEVICE_CASES[name]))

    assert not found.problem, found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_hand_over_is_found(mistake):
    """The model has teeth: with this mistake, some order of events goes wrong."""
    case, problem = FOUND[mistake]

    found = explore(Handover(Case(**{**vars(case), "mistake": mistake})))

    assert found.problem == problem, found
    assert found.trace


@pytest.mark.parametrize("mistake", DEVICE_MISTAKES)
def test_a_mistake_on_the_device_is_found(mistake):
    """The model has teeth: with this mistake, some order of kernels goes wrong."""
    case, problem = FOUND_ON_DEVICE[mistake]

    found = explore(Device(DeviceCase(**{**vars(case), "mistake": mistake})))

    assert found.problem == problem, found
    assert found.trace


def test_a_bounded_first_inbox_would_stop_the_watch():
    """The caller is the watch: while it waits for room, nobody gives up a call that hangs."""
    found = explore(Handover(Case(lanes=ONE, first_capacity=1, hangs=1)))

    assert str(found).splitlines()[1:] == [
        "  1 caller submits (0,)",
        "  2 preprocess lane takes (0,)",
        "  3 caller submits (1,)",
        "  4 preprocess lane begins preprocess on (0,) and hangs",
    ]
    assert found.problem == "the caller waits for ever"


def test_a_row_that_goes_round_for_ever_is_found():
    """Sent back by way of regrouping, a bad row loses the mark of having failed alone."""
    mistake = "retry into the first inbox"

    found = explore(Handover(Case(lanes=ONE, bad=frozenset({(2, 0)}), mistake=mistake)))

    assert found.problem.startswith("it need not end"), found
    assert ("postprocess", "lane", "sends back", (0,)) in found.trace


@pytest.mark.parametrize(("before", "size"), list(product((1, 2, 3, 4), repeat=2)))
def test_the_model_regroups_as_the_code_does(before, size):
    """In any order of coming and failing, both give the same groups at the same time."""
    rows = 4
    groups = [tuple(range(*limit)) for limit in bounds(rows, before)]
    for order in permutations(groups):
        for fates in product((1, 2), repeat=len(groups)):
            regroup, slots = Regroup(rows, before, size), (0,) * rows
            for group, how in zip(order, fates, strict=True):
                came = Part(list(group), len(group), 0, len(group))
                real = regroup.add(group, came) if how == 1 else regroup.drop(group)
                slots, ready = settle(slots, group, how, size)

                assert [tuple(batch.indices) for batch in real] == [b.rows for b in ready]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("alone", [False, True])
def test_the_model_retries_as_the_code_does(rows, alone):
    """Both cut a failed micro-batch into the same pieces, with the same mark."""
    indices = tuple(range(rows))
    batch = MicroBatch(indices, [Part(list(indices), rows, 0, rows)], failed_alone=alone)

    real = real_retries(Policy(), batch, ValueError())

    pieces = [(tuple(piece.indices), bool(piece.parts), piece.failed_alone) for piece in real]
    assert pieces == [tuple(piece) for piece in retries(Batch(indices, parts=True, alone=alone))]


@pytest.mark.parametrize("name", CASES)
def test_the_run_of_the_model_does_as_the_code_does(name):
    """On random ways through the model, a real run settles, stops, ends and hands on the same."""
    case, _ = CASES[name]
    model, chance = Handover(case), random.Random(name)
    for _ in range(30):
        state, replay = model.start(), Replay(case)
        while steps := list(model.steps(state)):
            step, after = chance.choice(steps)
            replay.do(state, step, after)
            state = after
