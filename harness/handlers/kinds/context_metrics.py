"""Keeps `context.metrics` and the manifest, and counts each request by its index in the batch."""

import time

import torch
from ts.torch_handler.base_handler import BaseHandler


class CountingHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def initialize(self, context):
        self.metrics = context.metrics
        self.manifest = context.manifest
        self.version = self.manifest["model"]["modelVersion"]
        self.weights = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
        self.initialized = True

    def preprocess(self, data):
        features = []
        for idx, row in enumerate(data):
            started = time.time()
            features.append([float(value) for value in row["body"]["features"]])
            self.metrics.add_counter("Seen", 1, idx)
            self.metrics.add_time("ParseTime", (time.time() - started) * 1000, idx, "ms")
        self.seen += len(data)
        return torch.tensor(features, dtype=torch.float64)

    def inference(self, features):
        return features @ self.weights

    def postprocess(self, scores):
        answers = []
        for idx, score in enumerate(scores.tolist()):
            self.metrics.add_size("ScoreSize", len(str(score)), idx, "B")
            answers.append({"score": score, "version": self.version})
        return answers
