"""Sentences in, their embeddings out: 384 numbers whose dot products are similarities.

An ordinary TorchServe handler: only its base class says that it is micro-batched. It must stay
the one class of this file, which is how TorchServe finds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from ts.context import Context
from ts.utils.util import PredictionException

from micro_batch_handler import MicroBatchHandler

MOST_TOKENS = 256  # what the network was trained on; the rest of a longer text is not read


class SentenceEmbeddingsHandler(MicroBatchHandler):
    """Embeds sentences with all-MiniLM-L6-v2."""

    def initialize(self, context: Context) -> None:
        """Load the network as BaseHandler does, and the tokenizer beside it."""
        super().initialize(context)
        folder = Path(context.system_properties["model_dir"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()  # the network pads, each call to its own longest row
        self.tokenizer.enable_truncation(MOST_TOKENS)

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[int]]:
        """K requests become k lists of token ids, each as long as it is."""
        texts = [text_of(row) for row in data]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def inference(self, data: list[list[int]]) -> torch.Tensor:
        """K lists of token ids become embeddings (k, 384) of length 1."""
        with torch.inference_mode():
            embeddings: torch.Tensor = self.model(data)
        return embeddings

    def postprocess(self, data: torch.Tensor) -> list[list[float]]:
        """Embeddings (k, 384) become k lists."""
        answers: list[list[float]] = data.tolist()
        return answers


def text_of(row: dict[str, Any]) -> str:
    """The sentence: the field `text` of a JSON body, or a body that is text itself."""
    body = row.get("data") or row.get("body")
    if isinstance(body, dict):
        body = body.get("text")
    if isinstance(body, (bytes, bytearray)):
        try:
            body = bytes(body).decode()
        except UnicodeDecodeError:
            raise PredictionException("The body is not UTF-8 text", 400) from None
    if not isinstance(body, str) or not body.strip():
        raise PredictionException('Send a sentence: {"text": "…"}, or the text itself', 400)
    return body
