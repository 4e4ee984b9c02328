"""How many workers of a model there are, by the processes beside a worker."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from micro_batch_handler.torchserve import worker_count as counting
from micro_batch_handler.torchserve.worker_count import worker_count

WORKER = ["python", "/site-packages/ts/model_service_worker.py"]


class Process:
    """A process in a folder, or one that has just ended."""

    def __init__(self, folder, command=WORKER, parent=None):
        self.folder, self.command, self._parent = folder, command, parent

    def parent(self):
        return self._parent

    def cwd(self):
        if self.folder is None:
            raise psutil.NoSuchProcess(1)
        return self.folder

    def cmdline(self):
        self.cwd()
        return self.command


@pytest.fixture
def beside(monkeypatch):
    """Makes this process a worker of a cat, beside these processes."""

    def beside(*others, argv=WORKER[1:]):
        frontend = SimpleNamespace(children=lambda: [me, *others])
        me = Process("/models/cat", parent=frontend)
        monkeypatch.setattr(counting.psutil, "Process", lambda: me)
        monkeypatch.setattr(counting.sys, "argv", argv)

    return beside


def test_workers_of_the_same_archive_are_counted(beside):
    """Those of other models, other programs of the frontend and what has just ended are not."""
    beside(
        Process("/models/cat"),
        Process("/models/dog"),
        Process("/models/cat", ["python", "metric_collector.py"]),
        Process(None),
    )

    assert worker_count(None) == 2


@pytest.mark.parametrize(("least", "workers"), [(1, 2), (3, 3), (0, 2), ("3", 2)])
def test_workers_that_are_still_to_come_count(least, workers, beside):
    """`minWorkers`, if it is a number and more than run."""
    beside(Process("/models/cat"))

    assert workers == worker_count({"minWorkers": least})


@pytest.mark.parametrize("argv", [[], ["pytest"]])
def test_only_torchserves_workers_count_others(argv, beside):
    """On Ray all processes have one parent, and may be in one folder."""
    beside(Process("/models/cat"), argv=argv)

    assert worker_count({}) == 1
