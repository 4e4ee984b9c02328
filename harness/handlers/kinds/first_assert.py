"""Asserts that there is one request in the batch."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class SingleHandler(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        assert len(data) == 1, "batching is not supported"
        numbers = data[0]["body"]["numbers"]
        return torch.tensor(numbers, dtype=torch.float64)

    def inference(self, numbers):
        return numbers.flip(0) * 3

    def postprocess(self, numbers):
        return [numbers.tolist()]
