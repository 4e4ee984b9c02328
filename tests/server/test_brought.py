"""On a real TorchServe: what users bring answers the same with micro-batching in front of it."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.brought import BROUGHT, STAND_INS, both
from harness.crowd import together
from harness.images import jpeg
from harness.torchserve import TorchServe

pytestmark = pytest.mark.server

CLIENTS = 16
SECTION = {
    "micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 3},
    "parallelism": {"preprocess": 2},
}
WORDS = ["ann", "bob", "can", "dot", "egg"]
SPOKEN = "Ann met Bob in Rome, and Carl did not like it at all: he went home."


@dataclass(frozen=True)
class Case:
    """A handler, and what 16 clients ask it."""

    handler: str
    """A file of handlers/brought, or the name of a built-in handler."""

    ask: Callable[[int], dict[str, Any]]
    """The request of a client, as keywords for `requests.post`."""

    model: str = ""
    """The name of its network in this file, if it has one."""

    batches: bool = True
    """Whether the plain handler stands batches."""

    @property
    def built_in(self) -> bool:
        """Whether it is TorchServe's own, which asks for other packages."""
        return not (BROUGHT / f"{self.handler}.py").exists()


def text(client: int) -> dict[str, Any]:
    return {"data": SPOKEN[client : 4 * client + 8].encode()}


def image(client: int) -> dict[str, Any]:
    return {"data": jpeg(client * 1234567)}


CASES = [
    Case("digits", image, model="Scores"),
    Case("sentiment", text),
    Case(
        "answers",
        lambda client: {"json": {"question": f"what {client}", "context": f"x {client} "}},
    ),
    Case("tokens", text),
    Case("speech", lambda client: {"data": os.urandom(8 * client + 8)}),
    Case(
        "recommender",
        lambda client: {"json": {"dense": [client, 1, 2, 0.5], "sparse": [3] * client}},
    ),
    Case("translator", text),
    Case("painter", lambda client: {"json": {"seed": client}}),
    Case("plain_function", lambda client: {"json": {"numbers": [client, 1]}}),
    Case("first_row", text, batches=False),
    Case("image_classifier", image, model="Scores"),
    Case("image_segmenter", image, model="Maps"),
    Case("object_detector", image, model="Boxes"),
    Case(
        "text_classifier",
        lambda c: {"data": " ".join(WORDS[: c % 5 + 1]).encode()},
        model="Bags",
        batches=False,
    ),
]

MODELS = """
import torch
from torch import nn


class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(64, 4, dtype=torch.float64)
        self.layer = nn.Linear(64, 10, dtype=torch.float64)

    def forward(self, batch, offsets=None):
        {body}

    def scores(self, images):
        grey = images.double().mean(dim=1, keepdim=True)
        return self.layer(nn.functional.adaptive_avg_pool2d(grey, 8).flatten(1))
"""

FORWARD = {
    "Scores": "return self.scores(batch)",
    "Maps": "return {'out': self.scores(batch)[:, :, None, None].expand(-1, -1, 2, 2)}",
    "Boxes": "return [dict(scores=s.sigmoid(), labels=s.argsort(), boxes=s[:, None].expand(-1, 4)) "
    "for s in self.scores(batch)]",
    "Bags": "return self.embedding(batch, offsets)",
}


def network(name: str, folder: Path) -> tuple[Path, Path]:
    """The file of a network, and one with random weights for it."""
    file, weights = folder / "net.py", folder / "weights.pt"
    file.write_text(MODELS.format(name=name, body=FORWARD[name]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(5)
    torch.save(getattr(module, name)().state_dict(), weights)
    return file, weights


def answer_of(response):
    """What a client gets: JSON read, since the two write it in different ways."""
    try:
        body = response.json()
    except ValueError:
        body = response.content
    return response.status_code, body, response.headers.get("x-shade")


def rounded(value):
    """Floats that may differ in the last digits, since products depend on the batch's size."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-5, abs=1e-9)
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.handler)
def test_wrapped_handlers_answer_as_plain_ones(server, case, tmp_path):
    """Sixteen clients at once get the answers that the plain handler gives them."""
    handler = case.handler if case.built_in else str(BROUGHT / f"{case.handler}.py")
    files = {}
    if case.built_in:
        files = {folder.name: folder for folder in STAND_INS.iterdir() if folder.is_dir()}
    if case.handler == "text_classifier":
        vocabulary = [*WORDS, *(" ".join(pair) for pair in itertools.pairwise(WORDS))]
        torch.save({word: at for at, word in enumerate(vocabulary)}, tmp_path / "source_vocab.pt")
        files["source_vocab.pt"] = tmp_path / "source_vocab.pt"
    model_file, weights = network(case.model, tmp_path) if case.model else (None, None)
    requests = [case.ask(client) for client in range(CLIENTS)]
    with both(
        server,
        f"brought-{case.handler}-{os.getpid()}",
        handler,
        files,
        model_file=model_file,
        weights=weights,
        section=SECTION,
        plain_batch=CLIENTS if case.batches else 1,
        batch=CLIENTS,
    ) as models:
        plain, wrapped = (
            together(CLIENTS, lambda client, model=model: model.predict(**requests[client]))
            for model in models
        )

    for expected, found in zip(map(answer_of, plain), map(answer_of, wrapped), strict=True):
        assert expected[0] == 200
        assert (expected[0], rounded(expected[1]), expected[2]) == found
    assert len({str(answer_of(response)[1]) for response in plain}) > 1


def test_a_handler_of_stock_micro_batching_serves(server):
    """With its import changed, a handler with `self.handle = MicroBatching(self)` answers all."""
    config = {
        "micro_batching": {
            "micro_batch_size": 4,
            "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 1},
        }
    }
    with server.model(
        BROUGHT / "stock.py", config, batch_size=CLIENTS, max_batch_delay=100
    ) as model:
        answers = together(CLIENTS, lambda client: model.predict(json={"number": client}))
        bad = model.predict(json={"number": "x"})

    assert [answer.json() for answer in answers] == [3 * n + 1 for n in range(CLIENTS)]
    assert bad.status_code == 400


def test_the_built_in_base_handler_is_wrapped_behind_an_envelope(java):
    """`base_handler`, which needs an envelope to get numbers, answers the same with both."""
    with (
        TorchServe({"service_envelope": "body"}) as server,
        both(
            server,
            "brought-base",
            "base_handler",
            model_file=BROUGHT / "tripled.py",
            section=SECTION,
            plain_batch=CLIENTS,
            batch=CLIENTS,
        ) as models,
    ):
        plain, wrapped = (
            together(CLIENTS, lambda client, m=model: m.predict(json=[client, 2]).json())
            for model in models
        )

    assert plain == wrapped == [[3 * client, 6] for client in range(CLIENTS)]
