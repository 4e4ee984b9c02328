"""What a handler answers, alone and in batches: by TorchServe's own code, in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml
from ts.service import Service

from harness.kinds import OK, Kind, Told, body_of
from harness.service import predict
from harness.wire import Answer, Request, parse
from micro_batch_handler import MicroBatchMixin
from micro_batch_handler.tools.checking.worker import load
from micro_batch_handler.tools.workbench.model_folder import importable, working_in

__all__ = ["Frontend", "answers_alone", "answers_to", "folder_of", "let_go"]


class Frontend:
    """TorchServe's side of the connection with a worker that has loaded a model.

    Args:
        service: of the model.
        headers: the response headers that are compared.
    """

    def __init__(self, service: Service, headers: Sequence[str]) -> None:
        self._service = service
        self._headers = headers
        self._sent: list[bytes] = []
        service.set_cl_socket(self)

    def sendall(self, message: bytes) -> None:
        """Take a part of the answers to a batch."""
        self._sent.append(bytes(message))

    def ask(self, asked: Mapping[int, Mapping[str, Any]]) -> dict[int, Told]:
        """Send a batch, requests by their number; gives back what each client is told."""
        self._sent.clear()
        batch = [_as_sent(number, request) for number, request in asked.items()]
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

    def _told(self, code: int, answer: Answer, parts: list[bytes]) -> Told:
        if code != OK:
            return Told(code)
        if parts:
            # Else its client would wait for more.
            assert answer.headers.get("ts_stream_next") == "false", answer
        headers = {name: answer.headers.get(name) for name in self._headers}
        return Told(answer.code, body_of(b"".join([*parts, answer.body])), headers)


def _as_sent(number: int, request: Mapping[str, Any]) -> Request:
    """A request for `requests.post` as the frontend hands it on."""
    prepared = requests.Request("POST", "http://server/", **request).prepare()
    assert not urlsplit(prepared.url).query
    return Request(
        f"request-{number}",
        prepared.body,
        prepared.headers.get("content-type", ""),
        list(prepared.headers.items()),
    )


def answers_alone(
    folder: Path, asked: Mapping[int, Mapping[str, Any]], headers: Sequence[str]
) -> dict[int, Told]:
    """What the handler of the model in `folder` answers to each request alone."""
    return answers_to(folder, [{number: request} for number, request in asked.items()], headers)


def answers_to(
    folder: Path, batches: Iterable[Mapping[int, Mapping[str, Any]]], headers: Sequence[str]
) -> dict[int, Told]:
    """What the handler of the model in `folder` answers to these batches."""
    before = set(sys.modules)
    answers: dict[int, Told] = {}
    with importable(folder), working_in(folder):
        service = load(folder)
        frontend = Frontend(service, headers)
        for batch in batches:
            answers |= frontend.ask(batch)
        handler = getattr(service._entry_point, "__self__", None)
        if isinstance(handler, MicroBatchMixin):
            MicroBatchMixin.close(handler)
        let_go(handler or frontend)
    for name in sys.modules.keys() - before:
        if name.startswith("ts.torch_handler."):
            del sys.modules[name]  # it may have imported stand-ins
    return answers


def folder_of(kind: Kind, into: Path, handler: str, batch_size: int = 1) -> Path:
    """Make the folder of a model; `handler` is one of its files."""
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
    config = {"batchSize": batch_size, "micro_batching": dict(kind.section)}
    (into / "model-config.yaml").write_text(yaml.safe_dump(config))
    return into


def let_go(handler: object) -> None:
    """Close what a handler has opened, and leaves open until its worker ends."""
    for value in vars(handler).values():
        if isinstance(value, (asyncio.AbstractEventLoop, sqlite3.Connection)):
            value.close()
