"""Handlers as users write them answer the same with micro-batching in front of them.

In process and without Java: TorchServe's own code loads each, reads what it is asked and writes
what it answers. `python -m benchmarks.answers` does the same on a real server.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import signal
import sqlite3
from collections import defaultdict
from urllib.parse import urlsplit

import pytest
import requests
import torch
import yaml

from harness.kinds import HANDLERS_OF_KINDS, KINDS, OK, Told, body_of, verdict
from harness.service import predict
from harness.wire import Request, parse
from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.errors import ArchiveError
from micro_batch_handler.tools.checking.worker import load
from micro_batch_handler.tools.packing.front import front_of
from micro_batch_handler.tools.packing.handler_class import read_handler
from micro_batch_handler.tools.workbench.model_folder import importable, working_in

REQUESTS = 24
BATCH = 8
ROUNDS = 3
BAD_EVERY = 5

pytestmark = [
    pytest.mark.usefixtures("as_before"),
    # What a handler gives to an event loop that runs already.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture
def as_before():
    """What handlers change in a process is put back."""
    threads, alarm = torch.get_num_threads(), signal.getsignal(signal.SIGALRM)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGALRM, alarm)
    asyncio.set_event_loop(None)


class Frontend:
    """TorchServe's side of the connection with a worker that has loaded a model."""

    def __init__(self, kind, service):
        self._kind = kind
        self._service = service
        self._sent = []
        service.set_cl_socket(self)

    def sendall(self, message):
        """Take a part of the answers to a batch."""
        self._sent.append(bytes(message))

    def ask(self, asked):
        """Send a batch, requests by their number; gives back what each client is told."""
        self._sent.clear()
        batch = [as_sent(number, request) for number, request in asked.items()]
        code, _, last = predict(self._service, batch)
        parts = defaultdict(list)
        for _, _, answers in map(parse, self._sent):
            for answer in answers:
                assert (answer.code, answer.headers["ts_stream_next"]) == (OK, "true")
                parts[answer.id].append(answer.body)
        assert [answer.id for answer in last] == [request.id for request in batch]
        return {
            number: self._told(code, answer, parts[answer.id])
            for number, answer in zip(asked, last, strict=True)
        }

    def _told(self, code, answer, parts):
        if code != OK:
            return Told(code)
        if parts:
            # Else its client would wait for more.
            assert answer.headers.get("ts_stream_next") == "false", answer
        headers = {name: answer.headers.get(name) for name in self._kind.headers}
        return Told(answer.code, body_of(b"".join([*parts, answer.body])), headers)


def as_sent(number, request):
    """A request for `requests.post` as the frontend hands it on."""
    prepared = requests.Request("POST", "http://server/", **request).prepare()
    assert not urlsplit(prepared.url).query
    return Request(
        f"request-{number}",
        prepared.body,
        prepared.headers.get("content-type", ""),
        list(prepared.headers.items()),
    )


def folder_of(kind, into, handler):
    """The folder of a model; `handler` is one of its files."""
    (into / "MAR-INF").mkdir(parents=True)
    for name, source in {kind.file.name: kind.file, **kind.extra_files}.items():
        shutil.copy(source, into / name)
    model = {
        "modelName": kind.name,
        "modelVersion": "1.0",
        "handler": handler,
        "configFile": "model-config.yaml",
    }
    (into / "MAR-INF/MANIFEST.json").write_text(json.dumps({"model": model}))
    config = {"batchSize": BATCH, "micro_batching": dict(kind.section)}
    (into / "model-config.yaml").write_text(yaml.safe_dump(config))
    return into


def let_go(handler):
    """Close what a handler has opened and TorchServe's worker takes to its end."""
    for value in vars(handler).values():
        if isinstance(value, (asyncio.AbstractEventLoop, sqlite3.Connection)):
            value.close()


def plain_answers(kind, asked, folder):
    """What the handler as it is answers to each request alone."""
    with importable(folder), working_in(folder):
        service = load(folder)
        frontend = Frontend(kind, service)
        answers = {}
        for number, request in asked.items():
            answers |= frontend.ask({number: request})
        let_go(getattr(service._entry_point, "__self__", None) or frontend)
    return answers


def batches(numbers):
    """Several rounds of all requests in batches, each round in another order."""
    chance = random.Random(1)
    for _ in range(ROUNDS):
        for start in range(0, len(numbers), BATCH):
            yield numbers[start : start + BATCH]
        numbers = chance.sample(numbers, len(numbers))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_answers_in_batches_what_it_answers_alone(kind, tmp_path):
    """A good request gets the plain handler's answer, and a bad one beside it gets none."""
    asked = {n: kind.ask(n, bad=n % BAD_EVERY == BAD_EVERY - 1) for n in range(REQUESTS)}
    expected = plain_answers(kind, asked, folder_of(kind, tmp_path / "plain", kind.file.name))
    bad = [n for n, told in expected.items() if told.status not in kind.statuses]
    assert bad == ([n for n in asked if n % BAD_EVERY == BAD_EVERY - 1] if kind.bad else [])
    # Else requests could be given each other's answers unnoticed.
    assert len({str(told.body) for told in expected.values()}) > REQUESTS // 2
    try:
        front = front_of(read_handler(str(kind.file)))
    except ArchiveError as error:
        if not kind.refused:
            raise
        assert re.search(kind.refused, str(error))  # noqa: PT017
        return
    folder = folder_of(kind, tmp_path / "fronted", front.name)
    (folder / front.name).write_text(front.text, encoding="utf-8")

    differences = []
    with importable(folder), working_in(folder):
        service = load(folder)
        handler = service._entry_point.__self__
        frontend = Frontend(kind, service)
        try:
            for batch in batches(list(asked)):
                for number, found in frontend.ask({n: asked[n] for n in batch}).items():
                    said = verdict(kind, expected[number], found)
                    if said not in ("right", "broken off beside a bad one"):
                        differences.append((said, number, expected[number], found))
        finally:
            MicroBatchMixin.close(handler)
            let_go(handler)

    assert not differences, f"{len(differences)} of {ROUNDS * REQUESTS}: {differences[:3]}"


def test_every_file_is_a_kind():
    """Each handler of the folder is asked, once."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.file for kind in KINDS} == set(HANDLERS_OF_KINDS.glob("*.py"))
