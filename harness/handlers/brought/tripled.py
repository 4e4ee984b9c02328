"""A network without weights."""

from torch import nn


class Tripled(nn.Module):
    def forward(self, batch):
        return batch * 3
