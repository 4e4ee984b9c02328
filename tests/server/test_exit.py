"""The worker's process ends when its frontend goes away, though it has lanes."""

from __future__ import annotations

import json
import os
import signal

import pytest

from harness.archives import pack
from harness.crowd import together
from harness.processes import wait_gone
from harness.wire import Request
from harness.worker import Worker

pytestmark = pytest.mark.server

CONFIG = {"micro_batching": {"micro_batch_size": 2, "parallelism": 3}}
ROWS = 8


def assert_ran_in_lanes(answers):
    """The stages ran in threads of this package, which therefore exist."""
    threads = {call["thread"] for each in answers for call in each["calls"].values()}
    assert threads
    assert all(name.startswith("mbh-") for name in threads)


def test_a_worker_ends_when_the_frontend_hangs_up(torchserve, tmp_path):
    """A worker with living lanes ends by itself, cleanly, when its connection is closed."""
    folder = pack(f"exit-{os.getpid()}", "echo", CONFIG, tmp_path, "no-archive")
    rows = [Request(f"id-{row}", json.dumps({"number": row}).encode()) for row in range(ROWS)]

    with Worker(folder, "echo", batch_size=ROWS) as worker:
        code, answers = worker.predict(rows)
        worker.hang_up()
        status = worker.process.wait(30)
        left = worker.socket_file.exists()

    bodies = [json.loads(each.body) for each in answers]
    assert code == 200
    assert [each["result"] for each in bodies] == [3 * row + 1 for row in range(ROWS)]
    assert_ran_in_lanes(bodies)
    assert status == 0
    assert not left


def test_workers_end_when_the_frontend_is_killed(own_server):
    """SIGKILL to the Java frontend ends every worker, and leaves no socket behind."""
    model = own_server.model(
        "echo", CONFIG, batch_size=ROWS, max_batch_delay=30_000, initial_workers=2
    )
    assert model.register().ok
    workers = model.worker_pids()
    answers = [
        each.json() for each in together(ROWS, lambda row: model.predict(json={"number": row}))
    ]

    os.kill(own_server.frontend_pid, signal.SIGKILL)

    assert len(workers) == 2
    assert_ran_in_lanes(answers)
    for pid in workers:
        wait_gone(pid)
