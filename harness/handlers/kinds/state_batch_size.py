"""Remembers the batch size in preprocess and gives flat outputs their shape with it."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class SeriesHandler(BaseHandler):
    steps = 4

    def initialize(self, context):
        self.batch_size = 1
        self.initialized = True

    def preprocess(self, data):
        self.batch_size = len(data)
        series = [row["body"]["series"][: self.steps] for row in data]
        return torch.tensor(series, dtype=torch.float64).reshape(-1)

    def inference(self, series):
        return (series + 1) * 3

    def postprocess(self, output):
        return output.reshape(self.batch_size, -1).tolist()
