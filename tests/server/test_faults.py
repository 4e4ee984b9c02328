"""On a real TorchServe: a request that fails gets its own status and harms nobody."""

from __future__ import annotations

import json

import pytest

from harness.crowd import together
from harness.grpc_client import GrpcClient
from harness.wait import until

pytestmark = pytest.mark.server

ROWS = 8
NEVER_MS = 30_000
"""A batch delay that is never waited for: exactly as many clients as fill a batch send at once."""

FAULTS = [
    ("preprocess", "PredictionException", 422, "as asked"),
    ("preprocess", "ValueError", 400, "preprocess failed"),
    ("preprocess", "MemoryError", 507, "Out of resources"),
    ("inference", "PredictionException", 422, "as asked"),
    ("inference", "ValueError", 500, "inference failed"),
    ("inference", "MemoryError", 507, "Out of resources"),
    ("inference", "SystemExit", 500, "inference failed"),
    ("inference", "StopIteration", 500, "inference failed"),
    ("postprocess", "PredictionException", 422, "as asked"),
    ("postprocess", "RuntimeError", 500, "postprocess failed"),
    ("postprocess", "KeyboardInterrupt", 500, "postprocess failed"),
    ("postprocess", "BaseException", 500, "postprocess failed"),
]

METRIC = (
    "before the metric\n"
    "[METRICS]HandlerTime.Milliseconds:7|#ModelName:forged,Level:Model|#type:GAUGE|#hostname:h,1\n"
    "after the metric"
)

UGLY = {
    "line ends": "first\r\nsecond\nthird\u2028fourth\x85fifth",
    "letters": "señor 図 🙂",
    "half a letter": "\ud800",
    "very long": "long " * 2000,
    "a forged answer": '"}\r\n\r\nHTTP/1.1 200 OK\r\n\r\n',
}
"""Texts of exceptions that a client can bring about."""

UNSENDABLE = [
    "header None",
    "header on two lines",
    "header without a name",
    "content type on two lines",
    "content type beyond ASCII",
    "status as text",
    "status of an interim answer",
    "half a letter",
    "a set",
    "a circle",
]
"""What the worker protocol or Netty cannot carry: in TorchServe alone it costs the batch or more.

The half of a letter (a lone surrogate) is in a client's JSON; the rest is the handler's own.
"""


@pytest.fixture(scope="module", params=[1, 4, ROWS], ids=lambda size: f"in {size}s")
def faulty(server, request):
    """A Faulty whose neighbours are in other micro-batches, in the same, or run inline with it."""
    config = {"micro_batching": {"micro_batch_size": request.param}}
    with server.model("faulty", config, batch_size=ROWS, max_batch_delay=NEVER_MS) as model:
        yield model


@pytest.fixture
def same_worker(faulty):
    """The test ends with the worker it began with, which serves the next batch right."""
    before = faulty.worker_pids()
    yield
    assert_right(batch(faulty, {}))
    assert faulty.worker_pids() == before


def batch(model, faults):
    """One full batch with these faults, by row; gives back the responses."""
    return together(ROWS, lambda row: model.predict(json={"number": row, **faults.get(row, {})}))


def assert_right(responses, but=()):
    """Every request has its right answer, but those of the given rows."""
    for row, response in enumerate(responses):
        if row not in but:
            assert (response.status_code, response.json()) == (200, {"double": 2 * row})


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize(("stage", "kind", "status", "message"), FAULTS)
def test_a_fault_costs_its_own_request(faulty, stage, kind, status, message):
    """Whatever a stage raises for one request, it alone fails, with its status and body."""
    responses = batch(faulty, {3: {"stage": stage, "kind": kind}})

    assert_right(responses, but=[3])
    assert responses[3].status_code == status
    assert responses[3].json() == {"code": status, "type": kind, "message": message}
    assert responses[3].headers["content-type"] == "application/json"


@pytest.mark.usefixtures("same_worker")
def test_different_faults_in_one_batch(faulty):
    """Requests of one batch that fail in different ways each get their own status."""
    faults = [FAULTS[0], FAULTS[1], FAULTS[4], FAULTS[5], FAULTS[9]]

    responses = batch(
        faulty, {row: {"stage": each[0], "kind": each[1]} for row, each in enumerate(faults)}
    )

    assert_right(responses, but=range(len(faults)))
    assert [each.status_code for each in responses[: len(faults)]] == [
        status for _, _, status, _ in faults
    ]


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize(("stage", "kind", "status", "message"), [FAULTS[0], FAULTS[4], FAULTS[5]])
def test_over_grpc_the_body_carries_the_error(faulty, stage, kind, status, message):
    """As gRPC drops the status of one request, its client finds the error in the body."""
    bodies = [{"number": row} for row in range(ROWS)]
    bodies[3] |= {"stage": stage, "kind": kind}

    with GrpcClient(faulty.server.ports) as grpc:
        answers = together(
            ROWS,
            lambda row: json.loads(
                grpc.predict(faulty.name, body=json.dumps(bodies[row]).encode())
            ),
        )

    expected = [{"double": 2 * row} for row in range(ROWS)]
    expected[3] = {"code": status, "type": kind, "message": message}
    assert answers == expected


@pytest.mark.usefixtures("same_worker")
def test_a_streamed_prediction_costs_no_worker(faulty):
    """Over gRPC it gets an answer of one part, or the error of its own request."""
    bodies = [{"number": row} for row in range(ROWS)]
    bodies[3] |= {"stage": "inference", "kind": "ValueError"}

    with GrpcClient(faulty.server.ports) as grpc:
        answers = together(
            ROWS, lambda row: [*grpc.stream(faulty.name, body=json.dumps(bodies[row]).encode())]
        )

    expected: list[object] = [{"double": 2 * row} for row in range(ROWS)]
    expected[3] = {"code": 500, "type": "ValueError", "message": "inference failed"}
    assert [[json.loads(part) for part in parts] for parts in answers] == [[e] for e in expected]


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize("kind", ["PredictionException", "ValueError"])
@pytest.mark.parametrize("text", UGLY.values(), ids=UGLY)
def test_no_text_of_an_exception_harms_anybody(faulty, kind, text):
    """Line ends, any letters and forged answers in an exception's text harm nobody."""
    responses = batch(faulty, {3: {"stage": "inference", "kind": kind, "text": text}})

    assert_right(responses, but=[3])
    known = {"PredictionException": (422, text), "ValueError": (500, "inference failed")}
    code, message = known[kind]
    assert responses[3].status_code == code
    assert responses[3].json() == {"code": code, "type": kind, "message": message}


def test_a_text_is_never_read_as_a_metric(faulty):
    """A line in an exception's text that looks like a metric stays a line of the log."""
    batch(faulty, {3: {"stage": "inference", "kind": "LookupError", "text": METRIC}})

    faulty.server.wait_for_log("after the metric")
    with faulty.server.rest() as client:
        assert "forged" not in client.metrics()


def test_the_log_tells_which_request_failed_and_why(faulty):
    """The full error stands in the log with the request's id, and none of it in the answer."""
    fault = {"stage": "inference", "kind": "ArithmeticError", "text": "the inner reason"}

    failed = batch(faulty, {3: fault})[3]

    faulty.server.wait_for_log(f"inference failed for requests {failed.headers['x-request-id']}")
    faulty.server.wait_for_log("ArithmeticError: the inner reason")
    assert "inner" not in failed.text


@pytest.fixture(scope="module")
def unsendable(server):
    """An Unsendable in micro-batches of four requests."""
    config = {"micro_batching": {"micro_batch_size": 4}}
    with server.model("unsendable", config, batch_size=ROWS, max_batch_delay=NEVER_MS) as model:
        yield model


@pytest.mark.parametrize("kind", UNSENDABLE)
def test_what_cannot_be_sent_costs_its_own_request(unsendable, kind):
    """An answer, status or header that TorchServe cannot send harms neither batch nor worker."""
    (worker,) = until(unsendable.worker_pids, "a worker")

    responses = batch(unsendable, {3: {"kind": kind, "text": "\ud800"}})

    for row, response in enumerate(responses):
        assert row == 3 or (response.status_code, response.json()) == (200, row)
    assert responses[3].status_code == 500
    assert responses[3].json()["message"] == "postprocess failed"
    assert unsendable.worker_pids() == [worker]
