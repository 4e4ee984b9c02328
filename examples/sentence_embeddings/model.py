"""all-MiniLM-L6-v2 as TorchServe loads it: one class, built without arguments.

BERT as torch.nn.TransformerEncoder spells it. The text workload of benchmarks/ has its own copy:
there one file with everything in it goes to many servers, here a network stands apart from its
weights, and an example can be copied away without the rest of the repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

LAYERS, WIDTH, HEADS, FEED_FORWARD, EPSILON = 6, 384, 12, 1536, 1e-12
WORDS, POSITIONS = 30522, 512
"""The package's model/config.json."""


class MiniLM(nn.Module):
    """Token ids to sentence embeddings of length 1: the mean over the tokens, normalised.

    https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (pooling and normalisation)
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FEED_FORWARD, activation="gelu", layer_norm_eps=EPSILON, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """K lists of token ids, each as long as it is -> (k, 384).

        They are padded here, to the longest of this call: a short sentence pays for the longest
        one of its micro-batch, not of its batch.
        """
        device = self.norm.weight.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        ids = ids.to(device)
        place = torch.arange(ids.shape[1], device=device)
        padding = place >= lengths[:, None]
        hidden = self.norm(self.words(ids) + self.positions(place))
        hidden = self.layers(hidden, src_key_padding_mask=padding if padding.any() else None)
        hidden = hidden.masked_fill(padding[:, :, None], 0.0)
        return nn.functional.normalize(hidden.sum(dim=1) / lengths[:, None], dim=1)


def named_as_here(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The published weights of BERT under the names of MiniLM's parts."""
    named = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        # Each sentence is one segment: its vector is the same for all positions.
        "positions.weight": weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0],
    }
    for kind in ("weight", "bias"):
        named[f"norm.{kind}"] = weights[f"embeddings.LayerNorm.{kind}"]
        for number in range(LAYERS):
            theirs, ours = f"encoder.layer.{number}", f"layers.layers.{number}"
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
