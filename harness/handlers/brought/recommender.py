"""As a recommender: dense and sparse features, columns of several types."""

import json

import torch
from ts.torch_handler.base_handler import BaseHandler


class Recommender(BaseHandler):
    def initialize(self, context):
        self.weights = torch.arange(1, 5, dtype=torch.float64)
        self.initialized = True

    def preprocess(self, data):
        rows = [row.get("data") or row.get("body") for row in data]
        rows = [row if isinstance(row, dict) else json.loads(row) for row in rows]
        dense = torch.tensor([row["dense"] for row in rows], dtype=torch.float64)
        return dense, [row["sparse"] for row in rows]

    def inference(self, features):
        dense, sparse = features
        return dense @ self.weights + torch.tensor([float(sum(ids)) for ids in sparse])

    def postprocess(self, scores):
        return [{"score": score, "default": score > 10} for score in scores.tolist()]
