"""The same requests to Ray Serve and to TorchServe: a client does not notice which one answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed")

import grpc

from harness.alone import answers_alone, folder_of
from harness.archives import pack, pack_plain
from harness.crowd import together
from harness.grpc_client import GrpcClient
from harness.kinds import KINDS, told, verdict
from harness.ray_serve import RayServe
from harness.wait import until
from micro_batch_handler.__main__ import main

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]

CLIENTS = 16
ROUNDS = 4
BAD_EVERY = 5
RIGHT = {"right", "broken off beside a bad one"}

OF_KINDS = (
    *("context_kept", "context_status", "state_list", "shape_loss", "stream_words"),
    *("thread_bound", "thread_get_loop"),
)
"""Handlers that keep their context, set statuses, keep state between stages, return no rows, send
parts of answers, only work in the thread that has loaded them, ask for its event loop."""

SETTINGS = {"batchSize": 8, "maxBatchDelay": 20, "maxWorkers": 1, "deviceType": "cpu"}
HANDLERS = Path(__file__).parent / "handlers"
COMPARED = ("content-type", "pragma", "cache-control", "expires")
"""Headers of every answer. `x-request-id` is there too, and differs."""


def wrapped(kind, into):
    """An archive of a kind, as its user wrote it, with micro-batching put into it."""
    name = f"kind-{kind.name}"
    settings = {**SETTINGS, "micro_batching": dict(kind.section)}
    archive = pack_plain(name, str(kind.file), settings, into, kind.extra_files)
    assert main(["wrap", str(archive)]) == 0
    return archive


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The archives that both serve."""
    into = tmp_path_factory.mktemp("archives")
    found = [wrapped(kind, into) for kind in KINDS if kind.name in OF_KINDS]
    echo = {**SETTINGS, "micro_batching": {"share_model": True}}
    found.append(pack("echo", "echo", echo, into))
    for scale in (2, 3):
        settings = {**SETTINGS, "handler": {"scale": scale}}
        plain = pack("plain", "plain_stock", settings, into, version=f"{scale}.0")
        found.append(plain.rename(into / f"plain-{scale}.mar"))
    return found


@pytest.fixture(scope="module")
def on_ray(archives, tmp_path_factory):
    """All of them in one application, and two that are not compared with TorchServe."""
    crossing = HANDLERS / "crossing.py"
    settings = {**SETTINGS, "batchSize": 1}
    into = tmp_path_factory.mktemp("more")
    more = [pack("crossing", crossing, settings, into)]
    (bound,) = (each for each in KINDS if each.name == "thread_bound")
    more.append(pack_plain("bound", str(bound.file), SETTINGS, into, {}))
    with RayServe([*archives, *more], "--cpus", str(len(archives) + 4)) as served:
        yield served


@pytest.fixture(scope="module")
def on_torchserve(server, archives):
    """The same archives, registered."""
    names = [archive.name for archive in archives]
    for archive in archives:
        copied = server.model_store / archive.name
        copied.write_bytes(archive.read_bytes())
        with server.rest() as client:
            assert client.register(url=copied.name).ok
    yield server
    with server.rest() as client:
        for name in names:
            client.unregister(name.partition(".")[0].partition("-2")[0])
            (server.model_store / name).unlink()
        client.unregister("plain/3.0")
        client.unregister("plain/2.0")


def asked(served, path, **request):
    """Status, body and compared headers of an answer."""
    with served.rest() as client:
        answer = client._call("POST", served.ports.inference, path, **request)
    assert answer.headers.get("x-request-id")
    return answer.status_code, answer.content, {each: answer.headers.get(each) for each in COMPARED}


JSON = {"json": {"number": 7}, "headers": {"x-tag": "of mine"}}
REQUESTS = {
    "json": ("/predictions/echo", JSON),
    "a version": ("/predictions/plain/3.0", {"json": [1, 2.5]}),
    "the default version": ("/predictions/plain", {"json": [1, 2.5]}),
    "bytes that are no JSON": ("/predictions/echo", {"data": b"\x00\xff"}),
    "broken JSON": (
        "/predictions/echo",
        {"data": b"{", "headers": {"content-type": "application/json"}},
    ),
    "an empty body": ("/predictions/echo", {"data": b""}),
    "a form": (
        "/predictions/plain",
        {"files": {"data": ("x", b"[1, 2]", "application/json")}},
    ),
    "a form without a file": ("/predictions/plain", {"data": {"data": "[3, 4]"}}),
    "an unknown model": ("/predictions/nobody", JSON),
    "an unknown version": ("/predictions/plain/9.9", JSON),
    "an unknown path": ("/nothing/here", JSON),
    "no model": ("/predictions", JSON),
    "a path behind the version": ("/predictions/echo/1.0/more/of/it", JSON),
    "ping": ("/ping", {}),
    "KServe's first protocol": ("/v1/models/echo:predict", JSON),
    "KServe's second protocol": ("/v2/models/echo/infer", JSON),
    "KServe, an unknown model": ("/v1/models/nobody:predict", JSON),
    "invoke": ("/models/echo/invoke", JSON),
    "an explanation": ("/explanations/plain", {"json": [1, 2]}),
    "an explanation that there is none of": ("/explanations/echo", JSON),
    "a bad request of a handler without micro-batching": ("/predictions/plain", {"data": b"no"}),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_an_answer_is_that_of_torchserve(on_ray, on_torchserve, what):
    """Status, body and headers are the same, of good requests and bad ones."""
    path, request = REQUESTS[what]

    found, expected = (asked(each, path, **request) for each in (on_ray, on_torchserve))

    assert _comparable(found) == _comparable(expected)


def _comparable(answer):
    """An answer without ids and thread names."""
    status, body, headers = answer
    try:
        value = json.loads(body)
    except ValueError:
        return status, body, headers
    if isinstance(value, dict):
        for key in ("ids", "calls"):
            value.pop(key, None)
    return status, value, headers


@pytest.mark.parametrize("name", OF_KINDS)
def test_clients_at_once_get_what_each_gets_alone(on_ray, name, tmp_path):
    """Sixteen clients, a fifth of the requests bad, batches in flight: every answer is its own."""
    (kind,) = (each for each in KINDS if each.name == name)
    numbers = range(CLIENTS * ROUNDS)
    requests = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in numbers}
    expected = answers_alone(folder_of(kind, tmp_path, kind.file.name), requests, kind.headers)

    def ask(rest, n):
        return rest.predict(f"kind-{name}", **requests[n])

    def client(number):
        with on_ray.rest() as rest:
            return [
                (n, told(ask(rest, n), kind.headers, streams=kind.streams))
                for n in numbers
                if n % CLIENTS == number
            ]

    found = dict(pair for pairs in together(CLIENTS, client) for pair in pairs)

    wrong = {n: (expected[n], found[n]) for n in numbers if _is_wrong(kind, expected[n], found[n])}
    assert not wrong, json.dumps(wrong, default=str)[:2000]


def _is_wrong(kind, expected, found):
    return verdict(kind, expected, found) not in RIGHT


def test_answers_over_grpc_are_those_of_torchserve(on_ray, on_torchserve):
    """The same proto: answers, failures of one request, and models that are not there."""
    asked = (("plain", b"[1, 2]"), ("echo", b"no number"), ("nobody", b"[]"))

    def told_by(served, model, body):
        with GrpcClient(served.ports) as client:
            try:
                return client.predict(model, data=body)
            except grpc.RpcError as error:
                return error.code()

    for model, body in asked:
        assert told_by(on_ray, model, body) == told_by(on_torchserve, model, body)


def test_parts_of_answers_are_sent_as_by_torchserve(on_ray, on_torchserve):
    """Over REST with the same status and headers, and over gRPC in the same parts."""
    words, path = "kind-stream_words", "/predictions/kind-stream_words"

    def parts(served, model):
        with GrpcClient(served.ports) as client:
            return list(client.stream(model, data=b"[1]"))

    rest = [asked(each, path, data=b"a word") for each in (on_ray, on_torchserve)]
    assert rest[0] == rest[1]
    assert parts(on_ray, words) == parts(on_torchserve, words)
    assert len(parts(on_ray, words)) == 4
    assert len(parts(on_ray, "plain")) == 1


def test_a_batch_is_prepared_while_another_is_computed(on_ray):
    """A request is answered only if the next one, in a batch of its own, is prepared meanwhile."""

    def ask(word):
        with on_ray.rest() as client:
            if word == "second":
                on_ray.wait_for_log("first is computed")
            return client.predict("crossing", data=word.encode()).text

    assert together(2, lambda number: ask(("first", "second")[number])) == ["first", "second"]


def test_a_handler_without_micro_batching_is_called_where_it_was_loaded(on_ray):
    """As by TorchServe's worker: this one works in that thread only."""
    with on_ray.rest() as client:
        answers = [client.predict("bound", data=b"abc") for _ in range(8)]

    assert [answer.json() for answer in answers] == [{"sum": 5}] * 8


def test_a_setting_of_torchserves_workers_is_told_of(on_ray):
    """With `share_model` the archive serves all the same, and one line says what is otherwise."""
    on_ray.wait_for_log("echo/1.0: share_model is for TorchServe's workers")


def test_metrics_have_the_same_names(on_ray):
    """Ray's Prometheus endpoint has the package's metrics and TorchServe's, with their labels."""
    with on_ray.rest() as client:
        assert client.predict("echo", json={"number": 1}).ok

        def told():
            text = client._call("GET", on_ray.ports.metrics, "/metrics").text
            lines = [line for line in text.splitlines() if line.startswith("ray_mbh_requests_tot")]
            return [line for line in lines if 'ModelName="echo"' in line]

        (line,) = until(told, "metrics of Ray", 60)
    assert 'Level="Model"' in line
    assert float(line.rpartition(" ")[2]) >= 1
