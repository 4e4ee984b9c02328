"""TorchServe's worker process: what it answers, and whether it ends, when calls hang or fail."""

from __future__ import annotations

import json
import os

import psutil
import pytest

from harness.archives import pack
from harness.processes import alive
from harness.wait import until
from harness.wire import Request
from harness.worker import Worker

pytestmark = pytest.mark.server

ROWS = 8
LOST_DEVICE = {"kind": "RuntimeError", "text": "CUDA error: device-side assert triggered"}


@pytest.fixture
def start(torchserve, tmp_path):
    """Starts a worker with a Faulty and these settings; use it in a `with` statement."""

    def start(**settings):
        name = f"faulty-worker-{os.getpid()}"
        folder = pack(name, "faulty", {"micro_batching": settings}, tmp_path, "no-archive")
        return Worker(folder, "faulty", ROWS)

    return start


def predict(worker, faults, rows=ROWS):
    """One batch with these faults, by row; gives back its code, and each status and body."""
    bodies = [json.dumps({"number": row, **faults.get(row, {})}).encode() for row in range(rows)]
    code, answers = worker.predict([Request(f"id-{row}", body) for row, body in enumerate(bodies)])
    assert [each.id for each in answers] == [f"id-{row}" for row in range(rows)]
    return code, [(each.code, each.body.decode()) for each in answers]


def is_right(row, answer):
    """Whether a Faulty answers this to the row."""
    return answer[0] in {-1, 200} and json.loads(answer[1]) == {"double": 2 * row}


def assert_ends(worker):
    """The worker ends by itself, frees nothing, and takes its socket with it."""
    status = worker.process.wait(30)
    assert status == 1, worker.log()
    assert not worker.socket_file.exists()


@pytest.mark.parametrize(
    ("stage", "size"), [("preprocess", 1), ("postprocess", 3), ("inference", ROWS)]
)
def test_a_lost_device_ends_the_worker_after_its_answers(start, stage, size):
    """The guilty request gets 507, each neighbour 507 or its answer; then the worker ends."""
    with start(micro_batch_size=size) as worker:
        code, answers = predict(worker, {3: {"stage": stage, **LOST_DEVICE}})
        assert_ends(worker)

    assert code == 200
    assert answers[3][0] == 507
    for row, answer in enumerate(answers):
        assert is_right(row, answer) or json.loads(answer[1])["message"] == "Out of resources"


def test_lanes_lost_one_after_the_other_end_the_worker(start):
    """Three calls that never return, in three batches, get 504; the third ends the worker."""
    with start(micro_batch_size=1, stage_timeout=1) as worker:
        for row in range(3):
            assert worker.process.poll() is None
            _, answers = predict(worker, {row: {"stage": "inference", "kind": "hang"}})
            assert answers[row][0] == 504
            assert all(is_right(*each) or each[1][0] == 504 for each in enumerate(answers))
        assert_ends(worker)


def test_a_single_request_that_hangs_keeps_its_worker(start):
    """Python code that never returns, in a batch run inline, gets 504; the worker serves on."""
    with start(stage_timeout=1) as worker:
        process = psutil.Process(worker.process.pid)
        threads = process.num_threads()
        for stage, kind in [("preprocess", "hang"), ("inference", "spin"), ("postprocess", "hang")]:
            _, (answer,) = predict(worker, {0: {"stage": stage, "kind": kind}}, rows=1)

            assert answer[0] == 504
            assert stage in json.loads(answer[1])["message"]
            assert is_right(0, predict(worker, {}, rows=1)[1][0])
        assert alive(worker.process.pid)
        until(lambda: process.num_threads() == threads, "the threads it began with")


def test_fail_batch_is_what_torchserve_does(start):
    """With `on_error: fail_batch` a fault costs the batch, with TorchServe's status for it."""
    faults = [("ValueError", 503), ("MemoryError", 507), ("PredictionException", 422)]
    with start(micro_batch_size=2, on_error="fail_batch") as worker:
        for kind, status in faults:
            code, answers = predict(worker, {3: {"stage": "inference", "kind": kind}})
            assert (kind, code) == (kind, status)
            assert len(answers) == ROWS
            assert not any(is_right(*each) for each in enumerate(answers))

            code, answers = predict(worker, {})
            assert code == 200
            assert all(is_right(*each) for each in enumerate(answers))

        code, _ = predict(worker, {3: {"stage": "inference", **LOST_DEVICE}})
        assert code == 507
        assert_ends(worker)
