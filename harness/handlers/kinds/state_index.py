"""Cuts each document into passages for one flat list, and remembers where each one's begin."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class PassageHandler(BaseHandler):
    passage = 6

    def initialize(self, context):
        self.start_index = []
        self.initialized = True

    def preprocess(self, data):
        passages = []
        self.start_index = []
        for row in data:
            text = bytes(row.get("data") or row.get("body")).decode("utf-8")
            self.start_index.append(len(passages))
            for start in range(0, len(text), self.passage):
                passages.append(text[start : start + self.passage])  # noqa: PERF401
        self.start_index.append(len(passages))
        return passages

    def inference(self, passages):
        return torch.tensor([sum(map(ord, passage)) % 101 for passage in passages])

    def postprocess(self, scores):
        answers = []
        for k in range(len(self.start_index) - 1):
            mine = scores[self.start_index[k] : self.start_index[k + 1]]
            answers.append({"best": int(mine.argmax()), "scores": mine.tolist()})
        return answers
