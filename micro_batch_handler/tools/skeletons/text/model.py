"""The network, as TorchServe loads it: the one class of this file, called without arguments."""

import torch
from torch import nn

FREQUENCIES = (
    "82 15 28 43 127 22 20 61 70 2 8 40 24 67 75 19 1 60 63 91 28 10 24 2 20 1",  # English
    "65 19 27 51 164 17 30 46 66 3 14 34 25 98 26 7 1 70 73 62 42 9 19 1 1 11",  # German
    "76 9 33 37 147 11 9 7 75 6 1 55 30 71 58 25 14 67 79 72 63 18 1 4 1 3",  # French
)
"""How often the letters from a to z are used, of 1000."""


class Languages(nn.Module):
    """Adds up how likely each letter is in each language; a stand-in for a trained network."""

    def __init__(self) -> None:
        super().__init__()
        columns = [[float(number) for number in line.split()] for line in FREQUENCIES]
        frequencies = torch.tensor(columns).T
        likely = (frequencies / frequencies.sum(dim=0)).log()
        # Letter 0 is padding, and adds nothing.
        self.letters = nn.Embedding(27, 3, padding_idx=0)
        self.letters.weight.data = torch.cat([torch.zeros(1, 3), likely])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Numbers of letters (k, longest), 0 where a row is shorter -> scores (k, 3)."""
        scores: torch.Tensor = self.letters(rows).sum(dim=1)
        return scores
