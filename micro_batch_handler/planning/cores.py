"""The cores that this process may use, and the lanes and threads that `auto` derives from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from micro_batch_handler.config import AUTO, STAGES, Lanes, PerStage, Threads
from micro_batch_handler.planning.constants import MOST_LANES, MOST_PER_CORE

__all__ = ["MOST_PER_CORE", "IntraOpThreads", "lanes_for", "share_of", "usable_cores"]


def usable_cores(root: Path = Path("/")) -> int:
    """The cores that this process may keep busy, at least 1.

    That is the smallest of the number it may run on (`sched_getaffinity`) and the CPU quotas of its
    control groups, by which containers are limited. A fraction of a core does not count. For the
    quotas see https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files and, for
    version 1, https://docs.kernel.org/scheduler/sched-bwc.html.

    Args:
        root: where the file system begins; a test passes its own.
    """
    cores: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return max(1, int(min([cores or os.cpu_count() or 1, *_quotas(root)])))


def share_of(cores: int, among: int) -> int:
    """The cores that fall to one of so many workers or lanes, at least 1."""
    return max(1, cores // among)


def lanes_for(parallelism: PerStage[Lanes], cores: int, workers: int = 1) -> PerStage[int]:
    """The lanes of each stage: what is asked for, but at most 4 a core.

    For preprocess and postprocess `auto` is one for each core that falls to a worker, at most 8,
    of which the planner learns how many are worth while.
    For inference it is 1: a second call at the same time would share the device, not double it.

    Args:
        parallelism: what is asked for.
        cores: that this process may use.
        workers: that share them.
    """

    def lanes(stage: str, wanted: Lanes) -> int:
        if wanted != AUTO:
            return min(wanted, MOST_PER_CORE * cores)
        return 1 if stage == "inference" else min(share_of(cores, workers), MOST_LANES)

    return PerStage(*(lanes(stage, parallelism[stage]) for stage in STAGES))


@dataclass(frozen=True)
class IntraOpThreads:
    """The threads that PyTorch may use inside one call."""

    lanes: PerStage[int]
    """In a call in the lanes of each stage."""

    whole: int
    """In a call of a whole batch, whose stages run in one thread."""

    @classmethod
    def of(
        cls, wanted: PerStage[Threads], lanes: PerStage[int], cores: int, most: int
    ) -> IntraOpThreads:
        """The threads that are wanted; `auto` shares the cores out.

        Preprocess and postprocess compute little with PyTorch: `auto` gives each of their lanes one
        thread, so that lanes that call at the same time do not have several times as many threads
        as cores. The lanes of inference share all cores, also those that the other lanes use while
        they work, which would be idle for the rest of the time: see benchmarks/README.md, examples.
        A whole batch gets the most that any stage wants.

        Args:
            wanted: in the lanes of each stage.
            lanes: of each stage.
            cores: that this process may use.
            most: threads that `auto` may give.
        """
        outer = [1 if each == AUTO else each for each in (wanted.preprocess, wanted.postprocess)]
        if wanted.inference == AUTO:
            inner, whole = min(most, share_of(cores, lanes.inference)), most
        else:
            inner = whole = wanted.inference
        return cls(PerStage(outer[0], inner, outer[1]), max(*outer, whole))


def _quotas(root: Path) -> list[float]:
    """The cores that each control group of this process, and each around it, allows."""
    quotas = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _along(root / "sys/fs/cgroup", path, _quota_v2)
        elif "cpu" in controllers.split(","):
            for folder in ("cpu", "cpu,cpuacct"):
                quotas += _along(root / "sys/fs/cgroup" / folder, path, _quota_v1)
    return quotas


def _along(mount: Path, path: str, quota: Callable[[Path], float | None]) -> list[float]:
    # In a container the path may be the host's, and the group itself is what is mounted.
    inside = PurePosixPath(path.lstrip("/"))
    groups = [inside, *inside.parents]
    found = [quota(mount / group) for group in groups if ".." not in group.parts]
    return [cores for cores in found if cores is not None]


def _quota_v2(group: Path) -> float | None:
    words = " ".join(_lines(group / "cpu.max")).split()
    return _cores(*words) if len(words) == 2 else None  # noqa: PLR2004  (quota and period)


def _quota_v1(group: Path) -> float | None:
    quota, period = (_lines(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _cores(quota[0], period[0]) if quota and period else None


def _cores(quota_us: str, period_us: str) -> float | None:
    try:
        cores = int(quota_us) / int(period_us)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cores if cores > 0 else None  # version 1 says -1 for any


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
