"""The stages of plain.py and plain_stock.py: a body of numbers gives their sum of squares."""

import json

import torch


class PlainStages:
    """What a user's handler class may look like before it knows of micro-batching."""

    def initialize(self, context):
        self.scale = context.model_yaml_config.get("handler", {}).get("scale", 1)
        self.initialized = True

    def preprocess(self, data):
        bodies = [row.get("body") or row.get("data") for row in data]
        numbers = [b if isinstance(b, list) else json.loads(b) for b in bodies]
        return torch.tensor(numbers, dtype=torch.float64)

    def inference(self, batch):
        return (batch * batch).sum(dim=1) * self.scale

    def postprocess(self, outputs):
        return outputs.tolist()

    def describe_handle(self):
        return {"scale": self.scale, "answers": "sums of squares"}

    def get_insights(self, data, raw, target):
        return [{"gradient": (2 * data).tolist(), "raw": str(raw), "target": target}]
