"""On a real TorchServe: workers that share one model answer as workers with a model each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading

import pytest
import requests

from harness.alone import answers_alone, folder_of
from harness.archives import pack, pack_plain
from harness.crowd import crowd, together
from harness.grpc_client import GrpcClient
from harness.image_load import ImageLoad, config
from harness.kinds import KINDS, told, verdict
from harness.model import Packed
from harness.processes import kill, wait_gone
from harness.sharing import hosts, kill_host, meeting_places, memory_of_members, one_host
from harness.torchserve import TorchServe
from harness.verdicts import NO_ANSWER
from harness.wait import until
from micro_batch_handler.__main__ import main

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("as_before")]

MEMBERS = 4
CLIENTS = 64
TURNS = 3
BATCH = 16
LOAD_CLIENTS = 16
MOST_MEMBERS = 8
NOT_FOUND = 404
NO_WORKER = 503
END_S = 10
"""How long processes may take to see that their server was killed."""

GIVE_UP_S = 10
"""When a client gives up whose request TorchServe forgets."""

SIZES = {"preprocess": 1, "inference": 4, "postprocess": 8}

OF_KINDS = ("context_status", "shape_loss")
"""Statuses and headers of single rows; a payload that is not made of rows."""


KEEPING = """
from micro_batch_handler import MicroBatchHandler

class Keeping(MicroBatchHandler):
    def preprocess(self, data):
        self.sizes = [len(row["body"]) for row in data]
        return [bytes(row["body"]) for row in data]

    def inference(self, batch):
        return [size for _, size in zip(batch, self.sizes)]
"""


OUTLIVED = """
import os
import threading
import time
import torch
from micro_batch_handler import MicroBatchHandler

class Outlived(MicroBatchHandler):
    def initialize_member(self, context):
        settings = context.model_yaml_config["handler"]
        if settings["fails"]:
            raise ValueError("no member")
        while not os.path.exists(settings["loads"]):
            time.sleep(0.01)
        print("the member waits", flush=True)
        threading.Event().wait()

    def initialize(self, context):
        open(context.model_yaml_config["handler"]["loads"], "w").close()
        while os.path.exists(context.system_properties["model_dir"]):
            time.sleep(0.01)
        torch.ones(9, 9) @ torch.ones(9, 9)
"""


def shared(**section):
    """A model-config.yaml."""
    return {"micro_batching": {"share_model": True, **section}}


@pytest.fixture(scope="module")
def gone():
    """Names of models that were unregistered."""
    return []


@pytest.fixture(scope="module")
def echo(server):
    """An Echo with four members."""
    settings = shared(micro_batch_size=SIZES)
    with server.model(
        "echo", settings, initial_workers=MEMBERS, batch_size=BATCH, max_batch_delay=20
    ) as model:
        yield model


@pytest.fixture(scope="module")
def coded(server):
    """A Coded, with one member at first."""
    settings = config(hang_s=3, micro_batch_size=SIZES, batch_size=BATCH, response_timeout_s=60)
    settings["micro_batching"]["share_model"] = True
    with server.model("coded", settings) as model:
        yield model


@contextlib.contextmanager
def server_to_break():
    """A server that may leave something behind."""
    server = TorchServe()
    server.__enter__()
    try:
        yield server
    finally:
        server.close()


def register(server, archives):
    """Register these versions of a model."""
    for archive in archives:
        shutil.copy(archive, server.model_store)
        with server.rest() as client:
            assert client.register(url=archive.name).ok


def version_of(name, scale, into):
    """An archive of a Plain whose version and factor are `scale`."""
    into.mkdir()
    settings = {"handler": {"scale": scale}, **shared()}
    archive = pack(name, "plain", settings, into, version=f"{scale}.0")
    return archive.rename(into / f"{name}-{scale}.mar")


def scaled(model, workers):
    """Whether TorchServe has so many workers now, as far as it says."""
    with contextlib.suppress(requests.Timeout):
        return model.scale(workers).ok
    return False


def not_right(load):
    """What went wrong in a load."""
    return [each for each in load.results if each.outcome != "right"]


def is_servers_own(result):
    """Whether TorchServe answered by itself: a worker went, or there is none, or no model."""
    text = "Worker died." in result.text
    return text or result.status in {NO_ANSWER, NOT_FOUND, NO_WORKER}


# Answers.


def test_64_rest_clients_get_their_own_answers(echo):
    """Four members and one model: every answer is the client's own."""

    def ask(client, who, turn):
        tag = f"{who}-{turn}"
        number = 1000 * who + turn
        response = client.predict(echo.name, json={"number": number}, headers={"x-tag": tag})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert (answer["result"], answer["tag"]) == (3 * number + 1, tag)
        assert answer["ids"] == [response.headers["x-request-id"]] * 2
        return answer

    answers = crowd(echo.server, CLIENTS, ask, turns=TURNS)

    assert len(answers) == CLIENTS * TURNS
    assert len(hosts(echo.server, echo.name)) == 1
    assert len(echo.worker_pids()) == MEMBERS


def test_64_grpc_clients_get_their_own_answers(echo):
    """The same over gRPC."""

    def several(who):
        for number in range(TURNS * who, TURNS * (who + 1)):
            body = json.dumps({"number": number}).encode()
            answer = json.loads(grpc.predict(echo.name, data=body))
            assert answer["result"] == 3 * number + 1
            assert answer["ids"][0] == answer["ids"][1]

    with GrpcClient(echo.server.ports) as grpc:
        together(CLIENTS, several)


def test_predictions_descriptions_and_explanations_are_those_of_base_handler(server, gone):
    """The same requests get byte for byte what TorchServe gives by itself."""
    settings = {"handler": {"scale": 2}, **shared()}
    registration = {"batch_size": 4, "max_batch_delay": 20}
    with (
        server.model("plain", settings, initial_workers=2, **registration) as ours,
        server.model("plain_stock", settings, **registration) as stock,
    ):
        answers, described, explained = [], [], []
        for model in (ours, stock):
            answers.append(
                crowd(
                    server,
                    8,
                    lambda client, who, turn, name=model.name: (
                        client.predict(name, json=[who / 3, turn / 7, -who]).content
                    ),
                    turns=5,
                )
            )
            with server.rest() as client:
                told_of = client.describe(model.name, customized=True).json()
                explained.append(client.explain(model.name, json=[1, 2, 3]).content)
            described.append(told_of[0]["customizedMetadata"])

    gone.append(ours.name)
    assert answers[0] == answers[1]
    assert described[0] == described[1]
    assert b"gradient" in explained[0]
    assert explained[0] == explained[1]


@pytest.mark.parametrize(
    "kind", [each for each in KINDS if each.name in OF_KINDS], ids=lambda kind: kind.name
)
def test_a_kind_answers_what_it_answers_alone(server, kind, tmp_path):
    """Handlers as users write them, wrapped, a fifth of the requests bad: all answers are right."""
    numbers = range(48)
    asked = {n: kind.ask(n, bad=n % 5 == 4) for n in numbers}
    expected = answers_alone(folder_of(kind, tmp_path, kind.file.name), asked, kind.headers)
    archive = pack_plain(
        f"shared-{kind.name}-{os.getpid()}",
        str(kind.file),
        shared(**kind.section),
        server.model_store,
        kind.extra_files,
    )
    assert main(["wrap", str(archive)]) == 0

    def client(who):
        mine = [n for n in numbers if n % BATCH == who]
        return [(n, told(model.predict(**asked[n]), kind.headers)) for n in mine]

    with Packed(server, archive, initial_workers=2, batch_size=8, max_batch_delay=20) as model:
        found = dict(pair for pairs in together(BATCH, client) for pair in pairs)

    wrong = {
        n: (expected[n], found[n])
        for n in numbers
        if verdict(kind, expected[n], found[n]) != "right"
    }
    assert not wrong, json.dumps(wrong, default=str)[:2000]


# Members and hosts that come and go.


@pytest.mark.timeout(300)
def test_scaled_under_load_from_one_to_eight_to_two(server, coded):
    """All members have one host, which gives the memory back of those that have gone.

    A worker that TorchServe ends takes its batch with it.
    """
    host = one_host(coded)
    growing, after = ImageLoad(coded.name), ImageLoad(coded.name)
    shrinking = ImageLoad(coded.name, timeout_s=GIVE_UP_S)

    with growing.running(server, LOAD_CLIENTS):
        assert coded.scale(MOST_MEMBERS).ok
        assert memory_of_members(host) == MOST_MEMBERS
        growing.wait_for(50)
    with shrinking.running(server, LOAD_CLIENTS):
        shrinking.wait_for(50)
        # Under load TorchServe may fail halfway (ConcurrentModificationException when a worker's
        # requests are refused), with some of the workers left; what it is asked again it ends.
        if not any(scaled(coded, 2) for _ in range(TURNS)):
            pytest.skip("TorchServe's own fault when a busy model is scaled down")
        until(lambda: memory_of_members(host) == 2, "the end of six members")
    with after.running(server, LOAD_CLIENTS):
        after.wait_for(50)

    lost = not_right(shrinking)
    assert len(lost) <= (MOST_MEMBERS - 2) * BATCH
    assert all(map(is_servers_own, lost)), lost[:3]
    assert not_right(growing) == not_right(after) == []
    assert hosts(server, coded.name) == [host]


def test_a_member_killed_under_load_costs_its_own_batch(server, coded):
    """SIGKILL to a worker costs what it had; the others, and the host, go on."""
    host, old = one_host(coded), coded.worker_pids()
    load, after = ImageLoad(coded.name, timeout_s=GIVE_UP_S), ImageLoad(coded.name)

    with load.running(server, LOAD_CLIENTS):
        load.wait_for(50)
        coded.kill_worker(old[0])
        until(
            lambda: len(coded.worker_pids()) == len(old) and old[0] not in coded.worker_pids(),
            "the member's successor",
            60,
        )
        load.wait_for(50)
    with after.running(server, LOAD_CLIENTS):
        after.wait_for(50)

    lost = not_right(load)
    assert len(lost) <= BATCH
    assert all(map(is_servers_own, lost)), lost[:3]
    assert not_right(after) == []
    assert one_host(coded) == host
    until(lambda: memory_of_members(host) == len(old), "the end of the old member's memory")


def test_a_host_killed_under_load_costs_no_request(server, coded):
    """SIGKILL to the process with the model, under load: all requests get their own answers."""
    workers = coded.worker_pids()
    load = ImageLoad(coded.name)

    with load.running(server, LOAD_CLIENTS):
        load.wait_for(50)
        old = kill_host(coded)
        load.wait_for(50)

    assert not_right(load) == []
    assert one_host(coded) != old
    assert coded.worker_pids() == workers


def test_unregistered_and_registered_again_under_load(server, coded):
    """Once the model is registered again all answers are right."""
    load, after = ImageLoad(coded.name, timeout_s=GIVE_UP_S), ImageLoad(coded.name)

    with load.running(server, LOAD_CLIENTS):
        load.wait_for(50)
        answer = coded.unregister()
        if not answer.ok:
            pytest.skip(f"TorchServe's own fault when a busy model goes: {answer.text}")
        until(lambda: any(each.status == NOT_FOUND for each in load.results), "a request refused")
        assert coded.register().ok
        load.wait_for(50)
    with after.running(server, LOAD_CLIENTS):
        after.wait_for(50)

    assert all(map(is_servers_own, not_right(load)))
    assert not_right(after) == []


@pytest.mark.usefixtures("java")
def test_two_versions_and_two_servers(server, gone, tmp_path):
    """Each version on each server has a host of its own, and answers as itself.

    The processes with a model and their members see that their frontend was killed, and end.
    """
    name = f"versions-{os.getpid()}"
    gone.append(name)
    archives = [version_of(name, scale, tmp_path / str(scale)) for scale in (1, 2)]

    def predict(where, scale):
        with where.rest() as client:
            return client.predict(f"{name}/{scale}.0", json=[3, 4]).json()

    with server_to_break() as other:
        register(server, archives)
        register(other, archives[:1])
        assert [len(hosts(each, name)) for each in (server, other)] == [2, 1]
        assert [predict(server, 1), predict(server, 2), predict(other, 1)] == [25, 50, 25]
        processes = other.processes()
        kill([other.frontend_pid])
        for pid in processes:
            wait_gone(pid, END_S)
        assert meeting_places(other) == []
    assert [predict(server, 1), predict(server, 2)] == [25, 50]
    with server.rest() as client:
        for scale in (2, 1):  # the default version goes last
            assert client.unregister(f"{name}/{scale}.0").ok


def test_a_handler_that_cannot_share_is_refused(server, tmp_path):
    """Registering it fails, and the log says what to change."""
    handler = tmp_path / "keeping.py"
    handler.write_text(KEEPING, encoding="utf-8")
    with pytest.raises(RuntimeError, match="cannot register"), server.model(handler, shared()):
        pass

    server.wait_for_log("ConfigError: Keeping: self.sizes, stored in preprocess (line 6)")


@pytest.mark.parametrize("fails", [True, False])
def test_a_host_that_still_loads_when_its_model_is_unregistered(server, tmp_path, fails):
    """It ends without leaving anything behind, whether its member has failed or was killed.

    It has no working directory any more, and Intel's oneMKL ends a process by its own `exit(2)` if
    it is first used there.
    """
    handler = tmp_path / "outlived.py"
    handler.write_text(OUTLIVED, encoding="utf-8")
    settings = {**shared(), "handler": {"fails": fails, "loads": str(tmp_path / "loads")}}
    running, places = hosts(server), meeting_places(server)
    if fails:
        with pytest.raises(RuntimeError, match="cannot register"), server.model(handler, settings):
            pass
    else:
        with server.model(handler, settings, initial_workers=0) as model:
            threading.Thread(target=model.scale, args=(1,), daemon=True).start()
            server.wait_for_log("the member waits")

    until(lambda: set(hosts(server)) <= set(running), "the end of the host")
    assert set(meeting_places(server)) <= set(places)


def test_hosts_end_some_seconds_after_their_last_member(server, gone):
    """Of models that were unregistered a while ago nothing is left."""
    assert gone
    for name in gone:
        until(lambda name=name: not hosts(server, name), "the end of the hosts")
    assert len(meeting_places(server)) == len(hosts(server))
