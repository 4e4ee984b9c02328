"""What holds a batch up: planted bottlenecks are named, with what to change."""

from __future__ import annotations

import random

import pytest

from harness.simulated import linear
from micro_batch_handler.config import STAGES, PerStage
from micro_batch_handler.errors import TraceError
from micro_batch_handler.planning.cores import IntraOpThreads
from micro_batch_handler.planning.plan import Plan
from micro_batch_handler.tracing.diagnosis import diagnose, typical
from micro_batch_handler.tracing.recording import TracedBatch
from tests.tracing.traced import Led, a_row, scheduled, setup

ONES = (1, 1, 1)


def by_row(*seconds: float) -> list:
    return [a_row(each) for each in seconds]


def threads(inference: int, whole: int) -> IntraOpThreads:
    """PyTorch's threads in the lanes of inference, and in a whole batch."""
    return IntraOpThreads(PerStage(1, inference, 1), whole)


PLANTED = {
    "slow preprocess, a lane for each core": (
        (8, ONES, by_row(20, 1, 1), (2, 1, 1)),
        {"cores": 2},
        ("preprocess", "slow"),
        [
            "preprocess is the bottleneck: its 2 lanes were busy 96 % of the batch",
            "inference waited 90 %. Each core has a lane for it: make its calls cheaper",
        ],
    ),
    "slow model": (
        (8, ONES, by_row(1, 10, 1)),
        {},
        ("inference", "slow"),
        [
            "inference is the bottleneck: its 1 lane was busy 98 % of the batch; it waited 2 %",
            "Make the model faster",
        ],
    ),
    "slow postprocess": (
        (8, ONES, by_row(1, 2, 10), (1, 1, 4)),
        {},
        ("postprocess", "slow"),
        ["postprocess is the bottleneck: its 4 lanes were busy", "inference waited"],
    ),
    "too few lanes": (
        (8, ONES, by_row(8, 4, 1)),
        {},
        ("preprocess", "lanes"),
        [
            "its 1 lane was busy 93 %",
            "too few lanes. Add preprocess lanes: with parallelism: {preprocess: 2}",
        ],
    ),
    "too few lanes of postprocess": (
        (8, ONES, by_row(1, 1, 10)),
        {},
        ("postprocess", "lanes"),
        ["postprocess is the bottleneck", "parallelism: {postprocess: 4}"],
    ),
    "batch too small": (
        (2, ONES, by_row(10, 10, 10)),
        {"batch_size": 2},
        (None, "batch"),
        ["batch is too small", "2 rows in 2 calls", "waited 50 %", "Raise batchSize."],
    ),
    "too few requests come together": (
        (2, ONES, by_row(10, 9, 10)),
        {"batch_size": 32},
        (None, "batch"),
        ["batch is too small", "Of batchSize 32 only 2 came together", "maxBatchDelay"],
    ),
    "whole": (
        (8, (8, 8, 8), by_row(10, 9, 8)),
        {},
        (None, "batch"),
        ["8 rows ran whole, so nothing overlapped", "lower micro_batch_size"],
    ),
    "too large micro-batches for the lanes": (
        (8, (8, 1, 1), by_row(10, 1, 1), (4, 1, 1)),
        {},
        ("preprocess", "size"),
        ["preprocess is the bottleneck", "too large to share out"],
    ),
    "balanced": (
        (32, ONES, by_row(10, 10, 9)),
        {"batch_size": 32},
        (None, "none"),
        ["No stage stands out", "worked 94 % of the batch"],
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bottleneck_is_named(name):
    """From batches with exact times: the stage or the cause, its share, and what to change."""
    batch, with_setup, expected, said = PLANTED[name]
    lanes = batch[3] if len(batch) > 3 else ONES

    found = diagnose([scheduled(*batch)] * 3, setup(lanes, **with_setup))

    assert (found.bottleneck, found.cause) == expected
    assert all(text in str(found) for text in said), str(found)
    assert found.finding.count(".") == 1


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [(1, "Set batchSize in model-config.yaml"), (32, "batchSize is 32: send requests from more")],
)
def test_batches_of_one_are_named(batch_size, advice):
    """However slow a stage is: one request cannot be cut, and only more of them change that."""
    found = diagnose([scheduled(1, ONES, by_row(1, 10, 1))], setup(batch_size=batch_size))

    assert (found.bottleneck, found.cause) == (None, "batch")
    assert "Batches had one request each, which cannot be cut" in found.finding
    assert "inference, the busiest, took 83 % of it" in found.finding
    assert found.advice.startswith(advice)


@pytest.mark.parametrize(
    ("sizes", "with_setup", "said", "unsaid"),
    [
        (
            (2, 4, 4),
            {"threads": threads(2, 4)},
            ["a larger micro_batch_size", "{inference: 4}, of which a call has 2 now", "workers"],
            ["device holds"],
        ),
        ((2, 4, 4), {"threads": threads(4, 4)}, ["more workers"], ["{inference:"]),
        ((8, 8, 8), {"threads": threads(1, 4)}, ["[1, 2, 4, 8]"], ["larger", "{inference:"]),
        ((2, 4, 4), {"threads": threads(1, 1), "cores": 1}, ["[1, 2, 4]"], ["intra_op", "workers"]),
        ((2, 4, 4), {"threads": threads(1, 4), "pads": True}, ["workers"], ["compiling"]),
        ((2, 4, 4), {"threads": threads(1, 4), "on_device": True}, ["device holds"], ["intra_op"]),
        ((2, 4, 4), {}, ["compiling it", "a smaller model"], ["intra_op", "workers"]),
    ],
)
def test_a_slow_model_comes_with_what_could_be_tried(sizes, with_setup, said, unsaid):
    """What applies to the settings at hand: not threads that calls have, nor what is compiled."""
    found = diagnose([scheduled(8, sizes, by_row(1, 100, 1))], setup(**with_setup))

    assert (found.bottleneck, found.cause) == ("inference", "slow")
    assert all(text in found.advice for text in said), found.advice
    assert not any(text in found.advice for text in unsaid), found.advice


@pytest.mark.parametrize(
    ("costs", "rows", "expected"),
    [
        (by_row(10, 3, 1), 6, ("preprocess", "lanes")),
        (by_row(1, 10, 2), 4, ("inference", "slow")),
        (by_row(1, 2, 10), 4, ("postprocess", "lanes")),
        (by_row(8, 8, 8), 2, (None, "batch")),
    ],
)
def test_a_real_pipeline_is_judged_as_its_schedule(costs, rows, expected):
    """Its records have the times of a computed schedule, and the same diagnosis."""
    computed = scheduled(rows, ONES, costs)
    outcomes = Led(computed, ONES).run()
    ran = TracedBatch(rows, Plan.of(1), 0.0, max(c.ended_s for c in outcomes.calls), outcomes.calls)

    def times(batch):
        return sorted((c.stage, *c.indices, c.thread, c.began_s, c.ended_s) for c in batch.calls)

    assert times(ran) == times(computed)
    found = diagnose([ran], setup(batch_size=rows))
    assert (found.bottleneck, found.cause) == expected
    assert found == diagnose([computed], setup(batch_size=rows))


def test_requests_that_differ_count_by_their_mean():
    """One batch in five has long requests, which then take most of the time."""
    usual, long = (scheduled(8, ONES, by_row(each, 5, 1)) for each in (1, 50))

    found = diagnose([usual, usual, long, usual, usual], setup())

    assert (found.bottleneck, found.cause) == ("preprocess", "lanes")


def test_calls_too_short_for_lanes_are_told():
    """Where most of a batch passes outside its calls, no stage is blamed."""
    batch = scheduled(8, ONES, by_row(1e-4, 1e-4, 1e-4))
    slow = batch._replace(ended_s=batch.ended_s * 3)

    found = diagnose([slow], setup())

    assert (found.bottleneck, found.cause) == (None, "hand-over")
    assert "calls take 0.1 ms on average, and 67 % of the batch passed outside" in found.finding


def test_the_most_common_kind_of_batch_is_judged():
    """A trial of other sizes, a small batch and one with failed calls do not count."""
    usual = scheduled(8, ONES, by_row(10, 1, 1))
    trial = scheduled(8, (8, 8, 8), by_row(1, 10, 1))
    [first, *others] = usual.calls
    failed = usual._replace(calls=[first._replace(failed=True), *others])

    assert typical([trial, usual, failed, usual]) == [usual, usual]
    assert typical([failed]) == [failed]
    assert diagnose([trial, usual, failed, usual], setup()).bottleneck == "preprocess"


def test_a_trace_without_calls_is_refused():
    """There is nothing to judge."""
    with pytest.raises(TraceError, match="no batch with calls"):
        diagnose([], setup())


def test_a_stage_whose_calls_all_failed_costs_nothing():
    """Such a batch is judged by the others."""
    usual = scheduled(4, ONES, by_row(10, 1, 1))
    calls = [c._replace(failed=c.stage == STAGES[1]) for c in usual.calls]

    assert diagnose([usual._replace(calls=calls)], setup()).bottleneck == "preprocess"


def test_any_planted_bottleneck_is_named():
    """Whatever the rows, sizes, lanes and cores: a stage that costs three times as much as others.

    A call costs something however few its rows are; the lanes of the planted stage are used, and
    the batch is not too small.
    """
    chance = random.Random(5)
    for _ in range(500):
        planted = chance.choice(range(3))
        rows, size = chance.randint(8, 40), chance.choice([1, 1, 2, 4])
        lanes = [chance.choice([1, 1, 2, 3]) for _ in STAGES]
        lanes[planted] = chance.choice([1, 2]) if size < 4 else 1
        work = [chance.uniform(0.2, 1) * lanes[stage] for stage in range(3)]
        work[planted] = 3 * lanes[planted]
        costs = [linear(chance.uniform(0, 0.2) * each, each) for each in work]
        batch = scheduled(rows, (size, size, size), costs, lanes)
        cores = chance.randint(1, 8)

        found = diagnose([batch], setup(lanes, rows, cores))

        assert found.bottleneck == STAGES[planted], (rows, size, lanes, work, str(found))
        if found.cause == "lanes":
            assert lanes[planted] < cores


def test_any_batch_without_a_slow_stage_that_is_too_small_is_told_so():
    """One to three micro-batches, stages alike: no stage is to blame."""
    chance = random.Random(6)
    for _ in range(200):
        size, calls = chance.choice([1, 4, 8]), chance.choice([1, 2, 3])
        costs = by_row(*(chance.uniform(0.9, 1) for _ in STAGES))
        batch = scheduled(size * calls, (size, size, size), costs)

        found = diagnose([batch], setup(batch_size=size * calls, cores=chance.randint(1, 8)))

        assert (found.bottleneck, found.cause) == (None, "batch"), str(found)
