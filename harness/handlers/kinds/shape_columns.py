"""Works on columns: each request is one column of the payload, not one row."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class LinearHandler(BaseHandler):
    def initialize(self, context):
        self.weights = torch.tensor([[1.0, 10.0], [-1.0, 100.0]], dtype=torch.float64)
        self.initialized = True

    def preprocess(self, data):
        points = [row["body"]["point"] for row in data]
        return torch.tensor([[x for x, _ in points], [y for _, y in points]]).double()

    def inference(self, columns):
        return self.weights @ columns

    def postprocess(self, output):
        return [column.tolist() for column in output.T]
