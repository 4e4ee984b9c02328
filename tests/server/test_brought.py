"""Handlers that users bring answer the same with micro-batching in front of them.

All of them by TorchServe's own code in this process, some on a real server.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.alone import answers_alone, answers_to
from harness.archives import BROUGHT, STAND_INS, pack_plain
from harness.crowd import together
from harness.images import jpeg
from harness.kinds import Told, alike, told
from harness.model import Packed
from harness.torchserve import TorchServe
from micro_batch_handler.__main__ import main

pytestmark = [
    pytest.mark.usefixtures("as_before"),
    pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning"),  # TorchServe's own
]

CLIENTS = 16
HEADERS = ("x-shade",)
ON_SERVER = ("digits", "painter", "plain_function", "first_row", "image_classifier")
CONFIG = {
    "micro_batching": {
        "micro_batch_size": {"preprocess": 2, "inference": 4, "postprocess": 3},
        "parallelism": {"preprocess": 2},
    }
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
    Case("first_row", text),
    Case("image_classifier", image, model="Scores"),
    Case("image_segmenter", image, model="Maps"),
    Case("object_detector", image, model="Boxes"),
    Case(
        "text_classifier",
        lambda c: {"data": " ".join(WORDS[: c % 5 + 1]).encode()},
        model="Bags",
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


def network(name: str, folder: Path) -> dict[str, str]:
    """The file of a network, and one with random weights for it; nothing without a name."""
    if not name:
        return {}
    file, weights = folder / "net.py", folder / "weights.pt"
    file.write_text(MODELS.format(name=name, body=FORWARD[name]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(5)
    torch.save(getattr(module, name)().state_dict(), weights)
    return {"model_file": str(file), "serialized_file": str(weights)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.handler)
def test_wrapped_handlers_answer_as_plain_ones(case, tmp_path):
    """Sixteen requests in one batch get the answers that the plain handler gives to each alone."""
    requests = {client: case.ask(client) for client in range(CLIENTS)}
    archive = archive_of(case, tmp_path, tmp_path)
    expected = answers_alone(unpacked(archive, tmp_path / "plain"), requests, HEADERS)
    assert main(["wrap", str(archive)]) == 0

    found = answers_to(unpacked(archive, tmp_path / "wrapped"), [requests], HEADERS)

    assert_alike(expected, found)


@pytest.mark.server
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.handler in ON_SERVER], ids=lambda case: case.handler
)
def test_wrapped_handlers_answer_many_clients(server, case, tmp_path):
    """On a real TorchServe sixteen clients at once get those answers, too."""
    requests = {client: case.ask(client) for client in range(CLIENTS)}
    archive = archive_of(case, server.model_store, tmp_path)
    expected = answers_alone(unpacked(archive, tmp_path / "plain"), requests, HEADERS)
    assert main(["wrap", str(archive)]) == 0

    with Packed(server, archive, batch_size=CLIENTS, max_batch_delay=100) as model:
        found = together(CLIENTS, lambda client: told(model.predict(**requests[client]), HEADERS))

    assert_alike(expected, dict(enumerate(found)))


def assert_alike(expected: Mapping[int, Told], found: Mapping[int, Told]) -> None:
    """Each request has its own answer, which no other has got."""
    assert {answer.status for answer in expected.values()} == {200}
    assert len({str(answer.body) for answer in expected.values()}) > 1
    for number, answer in expected.items():
        assert (answer.status, answer.headers) == (found[number].status, found[number].headers)
        assert alike(answer.body, found[number].body), (number, answer, found[number])


def unpacked(archive: Path, folder: Path) -> Path:
    """The folder of a model, as the frontend unpacks it."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def archive_of(case: Case, store: Path, folder: Path) -> Path:
    """The handler and what it needs, as torch-model-archiver packs them."""
    files = {}
    if case.built_in:
        files = {each.name: each for each in STAND_INS.iterdir() if each.is_dir()}
    if case.handler == "text_classifier":
        vocabulary = [*WORDS, *(" ".join(pair) for pair in itertools.pairwise(WORDS))]
        files["source_vocab.pt"] = folder / "source_vocab.pt"
        torch.save({word: at for at, word in enumerate(vocabulary)}, files["source_vocab.pt"])
    handler = case.handler if case.built_in else str(BROUGHT / f"{case.handler}.py")
    name = f"brought-{case.handler}-{os.getpid()}"
    return pack_plain(name, handler, CONFIG, store, files, **network(case.model, folder))


@pytest.mark.server
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


@pytest.mark.server
def test_the_built_in_base_handler_is_wrapped_behind_an_envelope(java):
    """`base_handler`, which needs an envelope to get numbers, answers the same with both."""
    with TorchServe({"service_envelope": "body"}) as server:
        plain = pack_plain(
            "brought-base",
            "base_handler",
            CONFIG,
            server.model_store,
            {},
            model_file=str(BROUGHT / "tripled.py"),
        )
        wrapped = plain.with_name("brought-base-wrapped.mar")
        assert main(["wrap", str(plain), "--output", str(wrapped)]) == 0
        answers = []
        for archive in (plain, wrapped):
            with Packed(server, archive, batch_size=CLIENTS, max_batch_delay=100) as model:
                answers.append(together(CLIENTS, lambda n: model.predict(json=[n, 2]).json()))

    assert answers == [[[3 * client, 6] for client in range(CLIENTS)]] * 2
