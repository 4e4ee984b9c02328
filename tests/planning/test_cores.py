"""The cores that may be used, and what `auto` makes of them."""

from __future__ import annotations

import os

import pytest

from micro_batch_handler.config import PerStage
from micro_batch_handler.planning.cores import IntraOpThreads, lanes_for, usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    """This process may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def write(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


V1 = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("cores", "files"),
    [
        (8, {}),
        (8, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}),
        (3, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000\n"}),
        (1, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}),
        (8, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}),
        (8, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 0\n"}),
        (
            2,
            {
                "proc/self/cgroup": "0::/pods/pod/box\n",
                "sys/fs/cgroup/pods/pod/cpu.max": "200000 100000\n",
                "sys/fs/cgroup/pods/pod/box/cpu.max": "400000 100000\n",
            },
        ),
        (4, {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}),
        (
            2,
            {
                "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/ab\n",
                f"{V1}/cpu.cfs_quota_us": "-1\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
                f"{V1}/docker/ab/cpu.cfs_quota_us": "200000\n",
                f"{V1}/docker/ab/cpu.cfs_period_us": "100000\n",
            },
        ),
        (
            3,  # inside a container, the path is the host's
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/ab\n",
                f"{V1}/cpu.cfs_quota_us": "300000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
        ),
    ],
)
def test_quotas_of_control_groups_limit_the_cores(tmp_path, cores, files):
    """The least quota of the process's groups counts, in both versions; part of a core does not."""
    assert cores == usable_cores(write(tmp_path, files))


def test_the_cores_a_process_is_bound_to_are_those_it_may_use(tmp_path, monkeypatch):
    """`taskset` is heeded; where there is no such thing, the cores of the machine count."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores(tmp_path) == 1

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6


def test_this_machine_has_a_core():
    """The real files can be read."""
    assert usable_cores() >= 1


@pytest.mark.parametrize(("cores", "lanes"), [(1, 1), (2, 2), (4, 4), (64, 8)])
def test_auto_gives_the_outer_stages_a_lane_for_each_core(cores, lanes):
    """At most four, and one for inference; numbers of the user's are kept, up to four a core."""
    assert PerStage(lanes, 1, lanes) == lanes_for(PerStage.of("auto"), cores)
    assert PerStage(4, 2, lanes) == lanes_for(PerStage(4, 2, "auto"), cores)
    assert PerStage(4 * cores, 4 * cores, lanes) == lanes_for(PerStage(999, 999, "auto"), cores)


@pytest.mark.parametrize(("workers", "lanes"), [(1, 8), (3, 2), (8, 1), (99, 1)])
def test_workers_share_the_cores_that_auto_gives_lanes_for(workers, lanes):
    """Eight workers on eight cores need no lanes beside each other."""
    assert PerStage(lanes, 1, lanes) == lanes_for(PerStage.of("auto"), 8, workers)


AUTO = PerStage.of("auto")


@pytest.mark.parametrize(
    ("wanted", "lanes", "cores", "most", "in_lanes", "whole"),
    [
        (AUTO, (2, 1, 1), 8, 8, (1, 8, 1), 8),
        (AUTO, (1, 3, 1), 8, 8, (1, 2, 1), 8),
        (AUTO, (4, 4, 4), 2, 2, (1, 1, 1), 2),
        (AUTO, (1, 1, 1), 8, 3, (1, 3, 1), 3),
        (PerStage.of(3), (2, 1, 1), 8, 2, (3, 3, 3), 3),
        (PerStage("auto", 4, "auto"), (2, 1, 1), 8, 8, (1, 4, 1), 4),
        (PerStage(2, "auto", 1), (2, 1, 1), 8, 8, (2, 8, 1), 8),
        (AUTO, (8, 1, 8), 16, 16, (1, 16, 1), 16),
        (PerStage(4, 1, "auto"), (1, 1, 1), 8, 8, (4, 1, 1), 4),
    ],
)
def test_threads_inside_calls_are_shared_out(wanted, lanes, cores, most, in_lanes, whole):
    """Lanes of inference share all cores, and others get one thread each; numbers are kept."""
    found = IntraOpThreads.of(wanted, PerStage(*lanes), cores, most)

    assert IntraOpThreads(PerStage(*in_lanes), whole) == found
