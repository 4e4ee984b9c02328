"""A network of so many weights that their memory can be told from all else."""

import torch


class HeavyNet(torch.nn.Module):
    """400 MB in 25 layers."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(2000, 2000, bias=False) for _ in range(25)
        )

    def forward(self, rows):
        values = rows.expand(-1, 2000) * 0 + rows
        for layer in self.layers:
            values = torch.relu(layer(values))
        return values.mean(dim=1)
