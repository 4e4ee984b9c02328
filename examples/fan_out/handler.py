"""A question and many sentences in, the sentences in order of what they have to do with it out.

One request carries many items and gets one answer. Stages are still called with k requests and
return k, which is what the lengths are checked against; only inside `inference` are the items of
all k requests one list, so that the network's calls are full. The class must stay the one class of
this file, which is how TorchServe finds it.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from ts.context import Context
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

MOST_TOKENS = 256  # what the network was trained on; the rest of a longer text is not read
MOST_ITEMS = 256  # in a request, so that no request can hold the others up for long
ITEMS_OF_A_CALL = 32  # of the network


class FanOutHandler(MicroBatchHandler):
    """Ranks sentences with all-MiniLM-L6-v2."""

    def initialize(self, context: Context) -> None:
        """Load the network as BaseHandler does, and the tokenizer beside it."""
        super().initialize(context)
        folder = Path(context.system_properties["model_dir"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()  # the network pads, each call to its own longest row
        self.tokenizer.enable_truncation(MOST_TOKENS)

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[list[int]]]:
        """K requests become k lists of items: the token ids of the question, then of the others."""
        return [[each.ids for each in self.tokenizer.encode_batch(items_of(row))] for row in data]

    def inference(self, data: list[list[list[int]]]) -> list[torch.Tensor]:
        """K lists of items become k tensors (items of this request, 384).

        Items of all requests share calls, those of like length first, since a call is as long as
        its longest; then each goes back to where it came from.
        """
        items = list(chain.from_iterable(data))
        order = sorted(range(len(items)), key=lambda place: len(items[place]))
        with torch.inference_mode():
            calls = [
                self.model([items[place] for place in order[start : start + ITEMS_OF_A_CALL]])
                for start in range(0, len(order), ITEMS_OF_A_CALL)
            ]
        embeddings = torch.empty(len(items), calls[0].shape[1], device=calls[0].device)
        embeddings[order] = torch.cat(calls)
        return list(embeddings.split([len(request) for request in data]))

    def postprocess(self, data: list[torch.Tensor]) -> list[list[dict[str, Any]]]:
        """K tensors (1 + sentences, 384) become k answers: place and similarity, best first."""
        return [ranking(request[1:] @ request[0]) for request in data]


def items_of(row: dict[str, Any]) -> list[str]:
    """The question and the sentences of a request."""
    body = row.get("data") or row.get("body")
    question, sentences = (
        (body.get("question"), body.get("sentences")) if isinstance(body, dict) else (None, None)
    )
    items = [question, *sentences] if isinstance(sentences, list) else []
    if len(items) < 2 or not all(isinstance(item, str) and item.strip() for item in items):  # noqa: PLR2004
        raise PredictionException('Send {"question": "…", "sentences": ["…", …]}, none empty', 400)
    if len(items) > MOST_ITEMS:
        raise PredictionException(f"Send at most {MOST_ITEMS - 1} sentences", 413)
    return items


def ranking(similarities: torch.Tensor) -> list[dict[str, Any]]:
    """Where each sentence stood in the request, and how similar it is, best first."""
    best = similarities.sort(descending=True, stable=True)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"sentence": place, "similarity": value} for place, value in pairs]
