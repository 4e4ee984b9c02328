"""One model for all workers: the answers through the model host, and a host that is killed."""

from __future__ import annotations

import pytest
import torch

from harness.wait import until
from tests.gpu.hosted import ROWS, HostedWorker, expected, largest_differences

MIB = 2**20
SIZES = [1, 2, 4, ROWS]


def used_mib() -> int:
    """What all processes hold of the device's memory."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) // MIB


@pytest.mark.timeout(240)
def test_answers_through_the_host_are_those_without_it(bench, note, tmp_path):
    """Float32, float16 and bfloat16 come through shared memory and the device bit for bit."""
    right = expected(range(ROWS), 0)

    with HostedWorker(tmp_path, 0) as worker:
        found = [largest_differences(worker.answers(range(ROWS)), right) for _ in range(8)]

    note("Through the model host, largest differences", **found[0])
    assert found == [dict.fromkeys(right[0], 0.0)] * 8


@pytest.mark.timeout(240)
def test_a_host_replays_graphs(bench, note, tmp_path):
    """One graph for each size, captured as the host loads the handler; no answer is overwritten."""
    right = expected(range(ROWS), 0)
    section = {"allowed_sizes": SIZES}

    with HostedWorker(tmp_path, 0, section, {"graphs": SIZES}) as worker:
        found = [
            largest_differences(worker.answers(range(rows)), right[:rows])
            for rows in (ROWS, 3, 1, ROWS, 5)
        ]

    note("Through the model host, graphs, largest differences", **found[1])
    # Kernels differ with the size of a call.
    assert all(difference < 0.05 for each in found for difference in each.values())


@pytest.mark.timeout(240)
def test_a_killed_host_costs_no_answer_and_its_memory_comes_back(bench, note, tmp_path):
    """After kill -9 the next batch is answered, right, by a new host in as much memory."""
    right = expected(range(ROWS), 0)
    torch.cuda.empty_cache()
    before_mib = used_mib()

    with HostedWorker(tmp_path, 0) as worker:
        worker.answers(range(ROWS))
        first_mib = used_mib() - before_mib
        old = worker.kill_host()
        killed_mib = used_mib() - before_mib
        differences = largest_differences(worker.answers(range(ROWS)), right)
        worker.answers(range(ROWS))
        second_mib = used_mib() - before_mib
        new = worker.host().pid

    note(
        "A model host that is killed",
        **{
            "GPU memory of the first, MiB": first_mib,
            "once killed, MiB": killed_mib,
            "of the second, MiB": second_mib,
        },
    )
    assert differences == dict.fromkeys(right[0], 0.0)
    assert new != old
    assert second_mib <= first_mib + 64
    until(lambda: used_mib() <= before_mib + 64, "memory that the host gave back")
