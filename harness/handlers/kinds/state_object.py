"""Keeps what postprocess needs in a helper object, `self.state.lengths`."""

from types import SimpleNamespace

import torch
from ts.torch_handler.base_handler import BaseHandler


class TaggerHandler(BaseHandler):
    def initialize(self, context):
        self.state = SimpleNamespace(lengths=[], padded=0)
        self.tags = ["O", "PER", "LOC", "ORG"]
        self.initialized = True

    def preprocess(self, data):
        sentences = [bytes(row.get("data") or row.get("body")).decode().split() for row in data]
        self.state.lengths = [len(words) for words in sentences]
        self.state.padded = max(self.state.lengths)
        ids = torch.zeros(len(sentences), self.state.padded, dtype=torch.long)
        for row, words in enumerate(sentences):
            ids[row, : len(words)] = torch.tensor([sum(map(ord, word)) for word in words])
        return ids

    def inference(self, ids):
        return ids % len(self.tags)

    def postprocess(self, predictions):
        tagged = []
        for row, tags in enumerate(predictions.tolist()):
            tagged.append([self.tags[tag] for tag in tags[: self.state.lengths[row]]])
        return tagged
