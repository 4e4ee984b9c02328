"""Handlers that users bring: what 16 clients ask each of them, and its archive."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.archives import BROUGHT, STAND_INS, pack_plain
from harness.images import jpeg

__all__ = ["CASES", "CONFIG", "HEADERS", "Case", "archive_of"]

HEADERS = ("x-shade",)
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
