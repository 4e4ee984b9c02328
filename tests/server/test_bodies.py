"""On a real TorchServe: handlers get the same rows, whether the server decodes bodies or we do."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from harness.crowd import together
from harness.grpc_client import GrpcClient
from harness.torchserve import TorchServe
from micro_batch_handler.tools.checking.worker import request

pytestmark = pytest.mark.server

BATCH = 4
LONG_MS = 2_000
"""A batch delay that is hardly ever waited for: as many clients as fill a batch send at once."""

JSON = "application/json"
BODIES = {
    "object": (JSON, b'{"a": [1, 2.5, null, true], "b": "gr\xc3\xbcn"}'),
    "numbers": (JSON, b"[18446744073709551616, -9223372036854775809, 1e400, -0, -0.0, NaN]"),
    "duplicates": (JSON, b'{"a": 1, "b": 2, "a": 3}'),
    "surrogate": (JSON, rb'"\ud800"'),
    "scalar": (JSON, b"3"),
    "null": (JSON, b"null"),
    "instances": (JSON, b'{"instances": [{"data": [1]}, {"data": [2]}]}'),
    "empty": (JSON, b""),
    "charset": ("application/json; charset=utf-8", b"[1]"),
    "space": ("application/json ; charset=utf-8", b"[1]"),
    "capitals": ("Application/JSON", b"[1]"),
    "lines": ("application/jsonl", b"[1]"),
    "text": ("text/plain; charset=latin-1", "grün".encode()),
    "latin": ("text/plain", "grün".encode("latin-1")),
    "no text": ("text/csv", b""),
    "bytes": ("application/octet-stream", bytes(range(256))),
    "no type": ("", b"[1]"),
    "form": ("application/x-www-form-urlencoded", b"a=%5B1%5D&b=x"),
}
FILES = {
    "json": ("a.json", b'{"a": 1}', JSON),
    "utf8": ("a.json", b'["gr\xc3\xbcn"]', f"{JSON}; charset=utf-8"),
    "text": ("a.txt", "grün".encode(), "text/plain"),
    "image": ("a.png", b"\x89PNG", "image/png"),
    "field": (None, b"[1]", None),
    "typed field": (None, b"[1]", JSON),
    "data": ("a.json", b"[1", "image/jpeg"),
}


@pytest.fixture(scope="module")
def models(server):
    """By name: TorchServe alone, ours where the server decodes, and ours where it does not."""
    registration = {"batch_size": BATCH, "max_batch_delay": LONG_MS}
    cut = {"micro_batching": {"micro_batch_size": 2}}
    raw = {"micro_batching": {"micro_batch_size": 2, "decode_input_request": False}}
    with ExitStack() as stack:
        leaving = stack.enter_context(TorchServe({"decode_input_request": "false"}))
        made = {
            "stock": server.model("seen_stock", **registration),
            "served": server.model("seen", cut, **registration),
            "lanes": leaving.model("seen", cut, **registration),
            "stock raw": leaving.model("seen_stock", **registration),
            "raw": leaving.model("seen", raw, **registration),
        }
        yield {name: stack.enter_context(model) for name, model in made.items()}


def at_once(model, requests):
    """A full batch; gives back the responses in the order of the requests."""
    return together(len(requests), lambda place: model.predict(**requests[place]))


def in_batches(model, requests):
    """All requests in full batches, filled up with the last."""
    responses = []
    for start in range(0, len(requests), BATCH):
        some = requests[start : start + BATCH]
        responses += at_once(model, some + some[-1:] * (BATCH - len(some)))[: len(some)]
    return responses


def posts():
    """One request for each body, one for the parts of a form, and a header named like the body."""
    requests = [
        {"data": body, "headers": {"content-type": kind} if kind else {}}
        for kind, body in BODIES.values()
    ]
    requests.append({"files": FILES})
    requests.append({"json": [1], "headers": {"body": "x"}})
    return requests


def seen(responses):
    """What the handlers have seen."""
    assert {response.status_code for response in responses} == {200}
    return [response.json()["seen"] for response in responses]


def test_rows_are_the_same_whoever_decodes(models):
    """JSON, text, bytes, forms and odd content types reach a handler as with TorchServe alone."""
    stock, served, lanes = (
        seen(in_batches(models[name], posts())) for name in ("stock", "served", "lanes")
    )

    assert stock == served == lanes
    found = dict(zip([*BODIES, "form parts", "header"], lanes, strict=True))
    assert found["numbers"] == str(
        [("body", json.loads("[18446744073709551616, -9223372036854775809, 1e400, 0, -0.0, NaN]"))]
    )
    assert found["latin"] == str([("body", bytearray(b"gr\xfcn"))])
    assert found["header"] == "[('body', [1])]"


def test_a_check_sends_what_the_quickstarts_request_sends(models, tmp_path):
    """A .json as JSON, other files without a content type: rows are those of the real server."""
    bodies = {"a.json": b"[1]", "B.JSON": b'{"a": 1}', "a.txt": b"x", "a.jpg": b"\xff", "a": b"1"}
    samples = [tmp_path / name for name in bodies]
    for sample in samples:
        sample.write_bytes(bodies[sample.name])
    puts = [
        {"data": body, "headers": {"Content-Type": JSON} if name.lower().endswith("json") else {}}
        for name, body in bodies.items()
    ]

    rows = [
        {each["name"]: each["value"] for each in request(sample)["parameters"]}
        for sample in samples
    ]

    for name in ("stock", "lanes"):
        assert seen(in_batches(models[name], puts)) == [repr([*row.items()]) for row in rows]


def test_a_handler_can_have_the_bytes(models):
    """With `decode_input_request: false` in its section, bodies stay as the server left them."""
    ours, stock = (seen(in_batches(models[name], posts())) for name in ("raw", "stock raw"))

    assert ours == stock
    assert ours[list(BODIES).index("charset")] == "[('body', bytearray(b'[1]'))]"


def test_grpc_rows_are_the_same_whoever_decodes(models):
    """What comes by gRPC has no content type, and stays bytes."""

    def ask(model):
        with GrpcClient(model.server.ports) as grpc:
            inputs = {"data": b"[1]", "body": b"\xff"}
            answers = together(BATCH, lambda _: grpc.predict_with(model.name, inputs))
        return {json.loads(answer)["seen"] for answer in answers}

    stock, served, lanes = (ask(models[name]) for name in ("stock", "served", "lanes"))

    assert stock == served == lanes
    assert stock == {str([("body", bytearray(b"\xff")), ("data", bytearray(b"[1]"))])}


def test_explanations_see_the_same_rows(models):
    """A request that is answered by the class beside the mixin gets its row decoded, too."""
    answers = []
    for name in ("stock", "served", "lanes"):
        model = models[name]

        def explain(place, model=model):
            with model.server.rest() as client:
                return client.explain(model.name, json=[place])

        answers.append([each.json() for each in together(1, explain)])

    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0]["raw"] == "[{'body': [0]}]"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        *(("lanes", body) for body in (b"{", b"\xff", b"{} {}", b"[" * 100_000)),
        ("served", b"{"),
    ],
)
def test_broken_json_is_answered_alone_and_at_once(models, name, body):
    """It gets a 400 that says where, its neighbours their answers, and no call is made again."""
    lanes = models[name]
    start = lanes.server.log_sizes()["model_log.log"]
    bad = {"data": body, "headers": {"content-type": JSON}}

    responses = at_once(lanes, [{"json": [0]}, bad, {"json": [2]}, {"json": [3]}])

    assert seen(responses[:1] + responses[2:]) == [f"[('body', [{row}])]" for row in (0, 2, 3)]
    answer = responses[1].json()
    assert (responses[1].status_code, answer["code"], answer["type"]) == (400, 400, "BodyError")
    assert answer["message"].startswith("preprocess: the body is not valid JSON: ")
    assert "failed once" not in lanes.server.log("model_log.log", start)


def test_many_broken_bodies_leave_few_lines_in_the_log(models):
    """The first is one line without a traceback, and those that follow at once are counted."""
    lanes = models["lanes"]
    start = lanes.server.log_sizes()["model_log.log"]
    bad = {"data": b"{", "headers": {"content-type": JSON}}

    statuses = {each.status_code for _ in range(8) for each in at_once(lanes, [bad] * BATCH)}

    assert statuses == {400}
    log = lanes.server.log("model_log.log", start)
    assert "Traceback" not in log
    assert log.count("not valid JSON") <= 1 + 1 + 1  # if ten seconds pass, on a slow machine


def test_json_answers_say_what_they_are(models):
    """TorchServe sends no content type; we say application/json of JSON, and nothing of text."""
    requests = [{"json": [1]}, {"json": [1], "headers": {"x-as": "text"}}] * 2

    found = {
        name: [each.headers.get("content-type") for each in at_once(models[name], requests)]
        for name in ("stock", "served", "lanes")
    }

    assert found["stock"] == [None] * 4
    assert found["served"] == found["lanes"] == ["application/json", None] * 2
