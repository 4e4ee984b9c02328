"""A device-side assert: the batch is answered, and the worker ends, for TorchServe to replace."""

from __future__ import annotations

import json
import os

import pytest

from harness.archives import pack
from harness.wire import Request
from harness.worker import Worker

ROWS = 8
CONFIG = {"micro_batching": {"micro_batch_size": 2}}


@pytest.fixture
def worker(tmp_path):
    """A worker on GPU 0; in it the device is lost, this process keeps its own."""
    folder = pack(f"asserting-{os.getpid()}", "asserting", CONFIG, tmp_path, "no-archive")
    with Worker(folder, "asserting", ROWS, gpu=0) as worker:
        yield worker


def batch(bad: int | None = None) -> list[Request]:
    """Requests, one of which makes the device fail."""
    bodies = [{"number": row, "bad": row == bad} for row in range(ROWS)]
    return [Request(f"id-{row}", json.dumps(body).encode()) for row, body in enumerate(bodies)]


def test_a_device_side_assert_ends_an_idle_worker(worker, note):
    """Good before; then 507 for the guilty request, answers or 507 for the others, and the end."""
    code, answers = worker.predict(batch())
    assert (code, [json.loads(each.body) for each in answers]) == (200, list(range(ROWS)))

    code, answers = worker.predict(batch(bad=3))
    status = worker.process.wait(60)

    found = [each.code for each in answers]
    note("A device-side assert", codes=found, **{"exit status of the idle worker": status})
    assert code == 200
    assert found[3] == 507
    assert set(found) <= {-1, 200, 507}
    assert "Traceback" not in answers[3].body.decode()
    assert status >= 0, worker.log()[-4000:]


def test_a_device_side_assert_ends_a_worker_under_load(worker):
    """A batch that comes right after gets no answer: the worker hangs up, with status 1."""
    worker.predict(batch(bad=0))

    with pytest.raises(ConnectionError):
        worker.predict(batch())

    assert worker.process.wait(60) == 1
