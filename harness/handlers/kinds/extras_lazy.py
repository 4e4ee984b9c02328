"""Loads its tokenizer at the first request, keeps a cache and counts what it has seen."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class EmbeddingHandler(BaseHandler):
    def __init__(self):
        super().__init__()
        self.tokenizer = None
        self.cache = {}
        self.seen = 0

    def initialize(self, context):
        generator = torch.Generator().manual_seed(11)
        self.table = torch.randn(128, 3, generator=generator, dtype=torch.float64)
        self.initialized = True

    def _ids(self, text):
        if text not in self.cache:
            self.cache[text] = self.tokenizer(text)
        return self.cache[text]

    def preprocess(self, data):
        if self.tokenizer is None:
            self.tokenizer = lambda text: [ord(letter) % 128 for letter in text]
        self.seen += len(data)
        texts = [bytes(row.get("data") or row.get("body")).decode("utf-8") for row in data]
        return [self._ids(text) for text in texts]

    def inference(self, rows):
        return torch.stack([self.table[ids].mean(dim=0) for ids in rows])

    def postprocess(self, vectors):
        return vectors.tolist()
