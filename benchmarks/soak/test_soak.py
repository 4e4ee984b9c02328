"""A short soak (benchmarks/soak): random faults, every answer checked, nothing left behind."""

from __future__ import annotations

import mmap

import pytest

from benchmarks.soak import run as module
from benchmarks.soak.run import one_arena, slope_per_1000, soak
from harness.wire import Wrong

BATCHES = 300
LEAST_LEAK_KB = 100_000
"""Growth per 1,000 batches beyond what warming up and the allocator may explain."""


@pytest.fixture(scope="module", autouse=True)
def memory_is_easy_to_tell():
    """One arena for all threads."""
    one_arena()


def test_after_random_faults_everything_is_as_before():
    """Every request of 300 batches gets what it must, and neither lane nor file is left."""
    report = soak(BATCHES, seed=3, hang_every=100)

    assert report.batches == BATCHES
    assert report.hangs == BATCHES // 100
    assert report.threads[0] == report.threads[1]
    assert report.open_files[0] == report.open_files[1]
    assert {"200", "201", "400", "422", "500", "504", "507"} == report.outcomes.keys()
    assert len(report.rss_kb) == BATCHES // module.SAMPLE_EVERY


def test_memory_does_not_grow_as_with_a_leak():
    """A run that loses 0.5 MB a batch is far above the bound, the same run without far below."""
    lost = []

    def lose():
        # Pages of its own: what earlier tests have freed in this process would be used again.
        memory = mmap.mmap(-1, 500_000)
        memory.write(b"x" * 500_000)
        lost.append(memory)

    leaking = soak(BATCHES, 4, hang_every=BATCHES + 1, leak=lose)
    lost.clear()
    sound = soak(BATCHES, 4, hang_every=BATCHES + 1)

    assert slope_of(leaking) > LEAST_LEAK_KB > slope_of(sound)


def slope_of(report):
    """The slope over the whole of a run too short for two halves."""
    return slope_per_1000([report.rss_kb[0]] * 3 + report.rss_kb)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_wrong_answer_is_found(seed, monkeypatch):
    """The soak itself fails when the truth that it compares with is another."""
    monkeypatch.setattr(module, "right_answer", lambda number: {"n": number + 1})
    right = module.check_right
    monkeypatch.setattr(module, "check_right", lambda answer, number: right(answer, 2 * number + 1))

    with pytest.raises(Wrong):
        soak(3, seed)


@pytest.mark.parametrize(
    ("kb", "slope"),
    [([5] * 20, 0.0), ([0] * 10 + list(range(10)), 10.0), ([9, 9, 1, 2, 3], 10.0), ([1, 2], None)],
)
def test_the_slope_is_that_of_the_second_half(kb, slope):
    """Samples every 100 batches; what happens while warming up does not count."""
    assert slope == slope_per_1000(kb)
