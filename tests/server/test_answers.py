"""On a real TorchServe: every client gets its own answer, as BaseHandler would give it."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from harness.crowd import crowd, together
from harness.grpc_client import GrpcClient
from harness.wait import until
from micro_batch_handler.config import STAGES

pytestmark = pytest.mark.server

CLIENTS = 64
TURNS = 4
LABELS = 12
SIZES = {"preprocess": 1, "inference": 16, "postprocess": 8}
NEVER_MS = 30_000
"""A batch delay that is never waited for: exactly as many clients as fill a batch send at once."""


def micro_batching(**section):
    return {"micro_batching": section}


@pytest.fixture(scope="module")
def echo(server):
    """An Echo whose batches are always full."""
    config = micro_batching(micro_batch_size=SIZES, parallelism={"preprocess": 2})
    with server.model("echo", config, batch_size=CLIENTS, max_batch_delay=NEVER_MS) as model:
        yield model


@pytest.fixture(scope="module")
def labels(server):
    """A Labels whose batches are always full."""
    sizes = {"preprocess": 1, "inference": 4, "postprocess": 3}
    config = micro_batching(micro_batch_size=sizes)
    with server.model("labels", config, batch_size=LABELS, max_batch_delay=NEVER_MS) as model:
        yield model


@pytest.fixture(scope="module")
def both(server):
    """The same stages, served by this package and by TorchServe alone."""
    config = {"handler": {"scale": 2}, **micro_batching(micro_batch_size=1)}
    registration = {"batch_size": 4, "max_batch_delay": 50}
    with (
        server.model("plain", config, **registration) as ours,
        server.model("plain_stock", config, **registration) as stock,
    ):
        yield ours, stock


def ask(model, client, number, tag):
    """One request to an Echo, whose answer must be this request's."""
    response = client.predict(model.name, json={"number": number}, headers={"x-tag": tag})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["result"] == 3 * number + 1
    assert answer["tag"] == tag
    assert answer["ids"] == [response.headers["x-request-id"]] * 2
    return answer


def ask_labels(model, bodies):
    """One full batch to a Labels; gives back the responses in the order of the bodies."""
    return together(
        LABELS, lambda row: model.predict(json=bodies[row], headers={"x-tag": f"tag {row}"})
    )


def calls_by_rows(answers, stage):
    """How many calls of a stage had how many rows: `{rows: calls}`."""
    return Counter(
        {each["calls"][stage]["number"]: each["calls"][stage]["rows"] for each in answers}.values()
    )


def assert_full_and_regrouped(answers):
    """All batches were full, and each stage had exactly the calls that its size gives."""
    batches = Counter(each["batch"]["number"] for each in answers)
    assert set(batches.values()) == {CLIENTS}
    for stage in STAGES:
        expected = {SIZES[stage]: len(answers) // SIZES[stage]}
        assert calls_by_rows(answers, stage) == expected, stage
    threads = {each["calls"][stage]["thread"] for each in answers for stage in STAGES}
    assert all(name.startswith("mbh-") for name in threads)


def test_64_rest_clients_get_their_own_answers(echo):
    """64 REST clients at once each get their own answers, out of full, regrouped batches."""
    answers = crowd(
        echo.server,
        CLIENTS,
        lambda client, who, turn: ask(echo, client, TURNS * who + turn, f"{who}-{turn}"),
        turns=TURNS,
    )

    assert len(answers) == CLIENTS * TURNS
    assert_full_and_regrouped(answers)


def test_64_grpc_clients_get_their_own_answers(echo):
    """64 gRPC clients at once each get their own answers, out of full, regrouped batches."""

    def several(who):
        answers = []
        for number in range(TURNS * who, TURNS * (who + 1)):
            body = json.dumps({"number": number}).encode()
            answer = json.loads(grpc.predict(echo.name, data=body))
            assert answer["result"] == 3 * number + 1
            answers.append(answer)
        return answers

    with GrpcClient(echo.server.ports) as grpc:
        answers = [each for mine in together(CLIENTS, several) for each in mine]

    assert len({request for each in answers for request in each["ids"]}) == CLIENTS * TURNS
    assert all(each["ids"][0] == each["ids"][1] for each in answers)
    assert_full_and_regrouped(answers)


def test_batches_of_any_size_under_load(server):
    """Clients that come as they like, with sizes that do not fit each other, are served right."""
    sizes = {"preprocess": 3, "inference": 16, "postprocess": 5}
    config = micro_batching(micro_batch_size=sizes, parallelism=2)
    with server.model("echo", config, batch_size=24, max_batch_delay=2) as model:
        answers = crowd(
            server,
            CLIENTS,
            lambda client, who, turn: ask(model, client, 1000 * who + turn, f"{who}-{turn}"),
            seconds=3,
        )

    for stage in STAGES:
        assert max(calls_by_rows(answers, stage)) <= sizes[stage]


def test_what_a_stage_sets_lands_on_its_own_client(labels):
    """Status, phrase, content type and headers set with local indices reach the right client."""
    codes = [200, 201, 202, 203, 400, 404, 409, 418, 422, 429, 500, 503]
    asked = [
        {"name": f"n{row}", "code": code, "phrase": f"Phrase {row}", "type": f"text/x-{row}"}
        for row, code in enumerate(codes)
    ]

    responses = ask_labels(labels, asked)

    for row, response in enumerate(responses):
        found = {
            "name": response.text,
            "code": response.status_code,
            "phrase": response.reason,
            "type": response.headers["content-type"],
        }
        assert found == asked[row]
        assert response.headers["x-name"] == f"n{row}"
        assert response.headers["x-tag-again"] == f"tag {row}"


@pytest.mark.parametrize("phrase", ["no\r\nfigs, señor", "\ud800", "", "long " * 1000])
def test_no_phrase_harms_anybody(labels, phrase):
    """Whatever a stage sets as a reason phrase, its client and the others get their answers."""
    asked = [
        {"name": f"n{row}", "code": 200, "phrase": "Fine", "type": "text/plain"}
        for row in range(LABELS)
    ]
    asked[1] |= {"code": 404, "phrase": phrase}

    responses = ask_labels(labels, asked)

    assert responses[1].status_code == 404
    assert [each.text for each in responses] == [each["name"] for each in asked]
    assert {each.reason for each in responses[:1] + responses[2:]} == {"Fine"}


def test_the_archive_brings_its_own_package(echo):
    """The worker imports the package from the archive: the server needs nothing installed."""
    with echo.server.rest() as client:
        described = client.describe(echo.name, customized=True).json()

    package = described[0]["customizedMetadata"]["package"]
    assert package.startswith(str(echo.server.folder))


def test_predictions_are_those_of_base_handler(both):
    """The same requests get byte for byte the answers that TorchServe gives by itself."""
    ours, stock = (
        crowd(
            model.server,
            8,
            lambda client, who, turn, name=model.name: (
                client.predict(name, json=[who / 3, turn / 7, -who]).content
            ),
            turns=5,
        )
        for model in both
    )

    assert ours == stock


@pytest.mark.parametrize("body", [{"json": [1, 2, 3]}, {"files": {"data": b"[4, 5, 6]"}}])
def test_explain_is_base_handlers(both, body):
    """An explanation is the one that TorchServe gives by itself."""
    with both[0].server.rest() as client:
        ours, stock = (client.explain(model.name, **body) for model in both)

    assert "gradient" in ours.json()
    assert (ours.status_code, ours.content) == (stock.status_code, stock.content)


def test_describe_is_base_handlers(both):
    """What a handler tells of itself is what TorchServe tells without this package."""
    with both[0].server.rest() as client:
        ours, stock = (client.describe(model.name, customized=True).json() for model in both)

    assert ours[0]["customizedMetadata"]["answers"] == "sums of squares"
    assert ours[0]["customizedMetadata"] == stock[0]["customizedMetadata"]


def test_metrics_show_the_handler_time(both):
    """/metrics has HandlerTime for a model of ours, labelled as for TorchServe's own."""
    for model in both:
        assert model.predict(json=[1, 2]).ok

    def labels(model):
        with model.server.rest() as client:
            lines = client.metrics().splitlines()
        mine = [each for each in lines if each.startswith("HandlerTime{") and model.name in each]
        return [each.split("}")[0].replace(model.name, "") for each in mine]

    ours, stock = (until(lambda m=m: labels(m), f"HandlerTime of {m.name}") for m in both)

    assert len(ours) == 1
    assert ours == stock
