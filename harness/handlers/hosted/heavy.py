"""Asks a network with many weights, which BaseHandler loads."""

import torch

from micro_batch_handler import MicroBatchHandler


class Heavy(MicroBatchHandler):
    def preprocess(self, data):
        return torch.tensor([[float(row["body"]["number"])] for row in data])

    def postprocess(self, outputs):
        return outputs.tolist()
