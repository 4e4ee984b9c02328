"""Appends something of each request to a list in preprocess and pops it in postprocess."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class UnitsHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.pending = []

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        bodies = [row.get("data") or row.get("body") for row in data]
        values = torch.tensor([float(body["value"]) for body in bodies], dtype=torch.float64)
        for body in bodies:
            self.pending.append(body.get("unit", "m"))
        return values

    def inference(self, values):
        return values * 2.54

    def postprocess(self, values):
        results = []
        for value in values.tolist():
            unit = self.pending.pop(0)
            results.append({"value": value, "unit": unit})
        return results
